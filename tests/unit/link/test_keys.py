"""A link's keys: made once, for their owner alone, renewed under the same CA."""

import ssl
import subprocess
from datetime import UTC, datetime, timedelta

import pytest

from zk0.errors import BadInputError
from zk0.link import keys, settings
from zk0.services.private import check_private


def verified(folder):
    command = ["openssl", "verify", "-x509_strict", "-CAfile", str(folder / "ca.pem"), str(folder / "server.pem")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_openssl_takes_what_is_made_and_keys_are_the_owners_alone(tmp_path):
    folder = tmp_path / "link"
    keys.make_keys(folder, ["zk0.example.org", "10.77.0.1", "fd00::1"], 9000)
    done = verified(folder)
    assert done.returncode == 0, done.stderr
    for name in ("ca.key", "server.key"):
        assert (folder / name).stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    names = keys.names_of(keys.load_certificate(folder / "server.pem"))
    assert {"zk0.example.org", "10.77.0.1", "fd00::1", "127.0.0.1", "localhost"} == {*names}
    assert settings.load_link(folder).port == 9000
    ssl.create_default_context(cafile=str(folder / "ca.pem"))
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(folder / "server.pem", folder / "server.key")


def test_nothing_is_ever_overwritten(tmp_path):
    keys.make_keys(tmp_path / "link", ["a"])
    before = {path.name: path.read_bytes() for path in (tmp_path / "link").iterdir()}
    with pytest.raises(BadInputError, match="never overwritten"):
        keys.make_keys(tmp_path / "link", ["b"])
    assert {path.name: path.read_bytes() for path in (tmp_path / "link").iterdir()} == before


def test_a_renewal_keeps_ca_key_and_names_and_may_change_the_names(tmp_path):
    keys.make_keys(tmp_path, ["zk0.example.org"])
    before = {name: (tmp_path / name).read_bytes() for name in ("ca.pem", "ca.key", "server.key", "server.pem")}
    keys.renew(tmp_path)
    after = {name: (tmp_path / name).read_bytes() for name in before}
    assert [name for name in before if before[name] != after[name]] == ["server.pem"]
    assert keys.names_of(keys.load_certificate(tmp_path / "server.pem"))[0] == "zk0.example.org"
    assert verified(tmp_path).returncode == 0
    keys.renew(tmp_path, ["10.0.0.1"])
    assert "10.0.0.1" in keys.names_of(keys.load_certificate(tmp_path / "server.pem"))


@pytest.mark.parametrize("host", ["https://a", "a b", "a/b", "", "-a", "a:8124", "a..b", "x" * 300])
def test_what_is_no_host_is_refused_before_anything_is_made(tmp_path, host):
    with pytest.raises(BadInputError, match="--host"):
        keys.make_keys(tmp_path / "link", [host])
    assert not (tmp_path / "link").exists()


def test_a_key_that_others_may_read_is_refused(tmp_path):
    keys.make_keys(tmp_path, ["a"])
    (tmp_path / "ca.key").chmod(0o640)
    with pytest.raises(BadInputError, match="chmod 600"):
        keys.renew(tmp_path)


def test_a_ca_near_its_end_renews_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(keys, "CA_DAYS", 100)
    keys.make_keys(tmp_path, ["a"])
    with pytest.raises(BadInputError, match="the CA itself ends on"):
        keys.renew(tmp_path)


def test_the_key_of_another_ca_renews_nothing(tmp_path):
    keys.make_keys(tmp_path / "a", ["a"])
    keys.make_keys(tmp_path / "b", ["a"])
    (tmp_path / "a" / "ca.key").write_bytes((tmp_path / "b" / "ca.key").read_bytes())
    with pytest.raises(BadInputError, match="is not the key"):
        keys.renew(tmp_path / "a")


def test_certificates_are_valid_now_and_not_for_ever(tmp_path):
    keys.make_keys(tmp_path, ["a"])
    for name, days in (("ca.pem", keys.CA_DAYS), ("server.pem", keys.SERVER_DAYS)):
        found, now = keys.load_certificate(tmp_path / name), datetime.now(UTC)
        assert found.not_valid_before_utc < now < found.not_valid_after_utc <= now + timedelta(days=days)


@pytest.mark.parametrize(("made", "words"), [(None, "put the key back"), ("link", "no plain file")])
def test_a_key_must_be_a_file_of_its_own(tmp_path, made, words):
    path = tmp_path / "key"
    if made == "link":
        (tmp_path / "other").write_text("x")
        path.symlink_to(tmp_path / "other")
    with pytest.raises(BadInputError, match=words):
        check_private(path)
