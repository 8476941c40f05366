"""flows.settings: what of the user's environment would stand in the way of a server on this machine."""

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from flows.settings import set_defaults
from zk0.errors import BadInputError


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, "127.0.0.1,localhost,::1"),
        ({"no_proxy": "intranet, localhost"}, "intranet,localhost,127.0.0.1,::1"),
        ({"NO_PROXY": "intranet"}, "intranet,127.0.0.1,localhost,::1"),
    ],
)
def test_loopback_is_never_proxied(monkeypatch: pytest.MonkeyPatch, given: dict[str, str], wanted: str) -> None:
    for key in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(key, given.get(key, ""))
    set_defaults()
    set_defaults()
    assert {os.environ["NO_PROXY"], os.environ["no_proxy"]} == {wanted}


@pytest.mark.parametrize("key", ["HTTP_PROXY", "https_proxy", "ALL_PROXY"])
def test_a_proxy_that_prefects_client_cannot_use_is_one_sentence(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    for known in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        for name in (known, known.lower()):
            monkeypatch.delenv(name, raising=False)
    for good in ("http://127.0.0.1:9", "127.0.0.1:9", "socks5h://127.0.0.1:9"):
        monkeypatch.setenv(key, good)
        set_defaults()
        httpx.Client()
    monkeypatch.setenv(key, "socks4://127.0.0.1:9")
    with pytest.raises(ValueError, match="Unknown scheme"):
        httpx.Client()
    with pytest.raises(BadInputError, match=rf"^{key.upper()} = 'socks4://127.0.0.1:9': .*; give one of http, .*unset"):
        set_defaults()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("HTTP_PROXY", "http://proxy:port"),
        ("https_proxy", "http://[::1"),
        ("NO_PROXY", "intranet,[::1]"),
        ("no_proxy", "::1/128"),
    ],
)
def test_so_is_an_address_that_it_cannot_read(monkeypatch: pytest.MonkeyPatch, key: str, value: str) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        for spelt in (name, name.lower()):
            monkeypatch.delenv(spelt, raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # without one nobody reads NO_PROXY
    monkeypatch.setenv(key, value)
    with pytest.raises(
        BadInputError, match=rf"^{key.upper()} = '{re.escape(value)}.*: Prefect cannot use it .*unset it$"
    ):
        set_defaults()


def test_a_home_that_cannot_be_written_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv("HOME", str(blocked))
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    with pytest.raises(BadInputError, match=r"^HOME = .*file.*Prefect cannot keep .*; set PREFECT_HOME to a folder"):
        set_defaults()
    monkeypatch.setenv("PREFECT_HOME", str(blocked / "prefect"))
    with pytest.raises(BadInputError, match=r"^PREFECT_HOME = "):
        set_defaults()
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    set_defaults()


@pytest.mark.parametrize(
    ("key", "value"),
    [("PREFECT_SERVER_API_PORT", "abc"), ("PREFECT_CLIENT_MAX_RETRIES", "many"), ("PREFECT_API_URL", "")],
)
def test_a_setting_that_prefect_cannot_use_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, key: str, value: str
) -> None:
    monkeypatch.setenv(key, value)
    if value:
        with pytest.raises(BadInputError, match=rf"^{key} = '{value}': .* valid integer.*; correct or unset it$"):
            set_defaults()
    else:
        set_defaults()


def test_profiles_that_cannot_be_read_are_one_sentence(tmp_path: Path) -> None:
    """In a process of its own: Prefect reads them as it is imported."""
    (tmp_path / "profiles.toml").write_text("active = [broken")
    said = subprocess.run(
        [sys.executable, "-m", "zk0.cli", "serve"],
        env=os.environ | {"PREFECT_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 2
    assert said.stderr.splitlines()[-1].startswith(
        "error: Prefect's settings cannot be read (Invalid value (at line 1, column 11))"
    )
