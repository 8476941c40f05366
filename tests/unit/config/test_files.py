"""Config files and `--set` items as people save and type them: each is read, or refused in one message."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from zk0.config import load_config, shipped_configs
from zk0.errors import ConfigError

SIM = shipped_configs()["sim"].read_text(encoding="utf-8")
LONG = "9" * 5000
TWO: dict[str, Any] = {
    "clients": [{"name": "a", "repo_id": "o/a"}],
    "policy": {"path": "o/p"},
    "federation": {"min_train_clients": 1},
}


def refusal(source: Any, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(source, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_what_editors_save_is_read(tmp_path: Path, encoding: str, line_end: str) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(SIM.replace("\n", line_end).encode(encoding))
    assert load_config(path) == load_config("sim")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (SIM.encode("utf-16"), ["UTF-16", "Notepad", "save it as UTF-8"]),
        (SIM.encode("utf-16-be"), ["UTF-16", "save it as UTF-8"]),
        (SIM.encode("utf-32"), ["UTF-16", "save it as UTF-8"]),
        ("seed = 1\n# Küche".encode("latin-1"), ["is not UTF-8 (byte 0xfc in line 2)", "save it as UTF-8"]),
        (b"\x7fELF\x02\x01\x00\x00", ["no text at all"]),
        (b"seed = 1\nseed = 2\n", ["not valid TOML", "line 2", "correct the file"]),
        (b'root = "C:\\Users\\me"\n', ["not valid TOML", "line 1"]),
        (f"seed = 1\n\nfps = {LONG}\n".encode(), ["a number in line 3 has thousands of digits", "smaller"]),
        (b"x = " + b"[" * 3000 + b"]" * 3000, ["nested more than 32 deep"]),
        (b"x = " + b"{a = " * 3000 + b"1" + b"}" * 3000, ["nested more than 32 deep"]),
        (b".".join([b"x"] * 3000) + b" = 1", ["nested more than 32 deep"]),
        (b"seed = 1\n" * (1 << 19), ["larger than 4 MiB", "TOML file"]),
        (b"seed = 1979-13-45\n", ["not valid TOML"]),
    ],
)
def test_what_is_no_toml_is_named_with_its_file(tmp_path: Path, content: bytes, words: list[str]) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    said = refusal(path)
    for word in [str(path), *words]:
        assert word in said


def test_an_empty_file_lacks_what_is_needed(tmp_path: Path) -> None:
    (tmp_path / "empty.toml").touch()
    assert "clients: missing; The clients" in refusal(tmp_path / "empty.toml")


def odd_files(folder: Path) -> dict[str, Path]:
    """What is no plain file, by a word of the message."""
    os.mkfifo(folder / "fifo.toml")
    (folder / "loop.toml").symlink_to(folder / "loop.toml")
    (folder / "nowhere.toml").symlink_to(folder / "gone.toml")
    (folder / "folder.toml").mkdir()
    (folder / "file").touch()
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(folder / "socket.toml"))
    server.close()
    return {
        "no plain file but a pipe": folder / "fifo.toml",
        "no plain file but a pipe, socket": folder / "socket.toml",
        "symbolic links": folder / "loop.toml",
        "no such file; give": folder / "nowhere.toml",
        "no such file": folder / "file" / "config.toml",
        "is a folder; give the TOML file in it": folder / "folder.toml",
        "File name too long": folder / f"{'a' * 300}.toml",
        "File name too long)": folder / "/".join(["a" * 200] * 30),
        "null byte": folder / "a\0b.toml",
        "device": Path("/dev/zero"),
    }


def test_what_is_no_plain_file_is_named(tmp_path: Path) -> None:
    for word, path in odd_files(tmp_path).items():
        said = refusal(path)
        assert word in said
        assert repr(str(path))[:200] in said


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("=x", ["'=x'", "key=value"]),
        (" = 3", ["key=value"]),
        ("seed", ["'seed'", "key=value"]),
        ("", ["key=value"]),
        ("training..steps=3", ["key=value"]),
        (".seed=3", ["key=value"]),
        ("training.steps=3\nseed=4", ["more than one key", "--set of its own"]),
        ("training.steps=3 training.lr=0.1", ["more than one key"]),
        ("training.steps=3,seed=4", ["more than one key"]),
        ("outputs_dir=/tmp/x seed=4", ["more than one key", "quotes"]),
        ("outputs_dir=a\nb", ["more than one key"]),
        ("seed=1\n[policy]\npath='x'", ["more than one key"]),
        ("clients.².root=x", ["'²' is not an index below 4", "count from 0"]),
        ("clients.٣.root=x", ["is not an index below 4"]),
        ("clients.-1.root=x", ["is not an index below 4"]),
        ("clients.4.root=x", ["is not an index below 4"]),
        (f"clients.{LONG}.root=x", ["is not an index below 4"]),
        ("clients.kitchen.root=x", ["'kitchen' is not an index below 4"]),
        ("clients.0.name.x=1", ["'name' is a value, not a group of keys"]),
        ("seed.x.y=1", ["there is no group 'x'"]),
        ("seed.x=1", ["'seed' is a value"]),
        (f"seed={LONG}", ["thousands of digits"]),
        (f"seed=-{LONG}", ["thousands of digits"]),
        ("seed=" + "[" * 3000 + "]" * 3000, ["nested more than 32 deep"]),
        (".".join(["x"] * 3000) + "=1", ["nested more than 32 deep"]),
        ("training=3", ["training = 3: should be a table of keys"]),
        ("clients=3", ["clients = 3: should be a list of tables, each under [[clients]]"]),
        ("clients.0=3", ["clients.0 = 3: should be a table of keys"]),
        ("seed=1979-05-27", ["seed = datetime.date(1979, 5, 27)", "a date or time, which does not fit"]),
        ("policy.overrides={at = 07:32:00}", ["policy.overrides = ", "at is a date or time, which does not fit"]),
        ("policy.overrides={a = [1, {b = inf}]}", ["policy.overrides", "a.1.b is inf, no finite number"]),
        ("policy.overrides.x=nan", ["policy.overrides", "x is nan, no finite number"]),
        ("training.lr=inf", ["training.lr = inf", "finite"]),
        ("training.lr=nan", ["training.lr = nan", "finite"]),
        ("seed=9223372036854775808", ["seed = 9223372036854775808", "greatest whole number"]),
        ("policy.overrides.x=9223372036854775808", ["policy.overrides", "greatest whole number"]),
        ("training.steps=true", ["training.steps = True", "true and false do not fit here", "Optimizer steps"]),
        ('outputs_dir="a\\u0000b"', ["outputs_dir = 'a\\x00b'", "NUL character"]),
        ('clients.0.root="a\\u0000b"', ["clients.0.root = ", "NUL character"]),
        ('policy.overrides.x="a\\u0000b"', ["policy.overrides", "NUL character"]),
        ("clients.0.root=/data/\udcff", ["clients.0.root = '/data/\\udcff'", "not UTF-8"]),
        ("policy.overrides={a = {'b\udcff' = 1}}", ["policy.overrides", "the key 'b\\udcff' holds bytes"]),
        ("clients.0.root=~nosuchuser/data", ["clients.0.root = '~nosuchuser/data'", "no user 'nosuchuser'", "from /"]),
        ("outputs_dir=~nosuchuser", ["outputs_dir = '~nosuchuser'", "no user 'nosuchuser'"]),
        ("policy.path=~nosuchuser/x", ["policy.path", "no user 'nosuchuser'"]),
        ("outputs_dir=" + "a" * 300, ["outputs_dir", "longer than the 255 bytes that a name may have"]),
        ("clients.1.root=" + "a" * 300, ["clients.1.root", "longer than the 255 bytes that a name may have"]),
        ("clients.1.root=" + "a/" * 2500, ["clients.1.root", "longer than the 4095 bytes that a path may have"]),
        ("policy.path=" + "ü" * 200, ["policy.path", "longer than the 255 bytes that a name may have"]),
        ("evaluation.datasets.0.root=" + "a" * 300, ["evaluation.datasets.0.root", "255 bytes"]),
        ("clients.1.name=kitchen", ["clients: client names must differ", "kitchen"]),
        ("clients.1.name=" + "a" * 70, ["clients.1.name", "1 to 63"]),
        ("logging.rotation=foo", ["logging.rotation = 'foo'", "foo", "'500 MB'"]),
        ("logging.rotation=", ["logging.rotation = ''", "'500 MB'"]),
        ("logging.rotation=99999999999 years", ["logging.rotation", "'500 MB'"]),
        ("logging.retention=always", ["logging.retention = 'always'", "'10 days'"]),
        ("executor.timeout_s=1e300", ["executor.timeout_s = 1e+300", "less than or equal to 2000000"]),
        ("executor.retry_delay_s=1e300", ["executor.retry_delay_s", "less than or equal to 86400"]),
        ("memory.sample_interval_s=1e300", ["memory.sample_interval_s", "less than or equal to 86400"]),
        ("memory.soft_limit=" + "9" * 400 + "g", ["memory.soft_limit", "is no size"]),
        ("executor.docker.shm_size=999999999999999999g", ["executor.docker.shm_size", "is no size"]),
        ("a b=1", ["'a b' = 1: unknown key"]),
        ("x" * 5000 + "=1", ["unknown key"]),
        ("bogus=" + "x" * 5000, ["bogus = 'xxx", "unknown key"]),
        ("training.stepz=3", ["training.stepz = 3: unknown key (did you mean 'steps'?)"]),
    ],
)
def test_an_odd_item_of_set_is_refused(item: str, words: list[str]) -> None:
    said = refusal("sim", item)
    assert len(said) < 1500
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("item", "key", "value"),
    [
        ("outputs_dir=/data/a [b] c", "outputs_dir", "/data/a [b] c"),
        ("outputs_dir=/data/a=b, c=d", "outputs_dir", "/data/a=b, c=d"),
        ('outputs_dir="/data/x seed=5"', "outputs_dir", "/data/x seed=5"),
        (" seed = 5 ", "seed", 5),
        ("seed=9223372036854775807", "seed", 2**63 - 1),
        ("outputs_dir=~/runs", "outputs_dir", "~/runs"),
        ("outputs_dir=" + "ü" * 127, "outputs_dir", "ü" * 127),
    ],
)
def test_what_may_be_said_by_set(item: str, key: str, value: object) -> None:
    assert getattr(load_config("sim", [item]), key) == value


def test_data_that_json_has_no_word_for() -> None:
    itself: dict[str, Any] = {**TWO}
    itself["policy"] = {"path": "o/p", "overrides": itself}
    assert "nested more than 32 deep" in refusal(itself)
    assert "7 is no text, and cannot be a key" in refusal({**TWO, "policy": {"path": "o/p", "overrides": {7: 1}}})
    assert "a number of thousands of digits" in refusal({**TWO, "seed": 10**5000})
    assert "a number of thousands of digits" in refusal({**TWO, "bogus": -(10**5000)})
    assert "x.y is of Python's type set" in refusal({**TWO, "policy": {"path": "p", "overrides": {"x": {"y": set()}}}})
    assert "clients.0.root" in refusal({**TWO, "clients": [{"name": "a", "repo_id": "o/a", "root": Path("x")}]})
    assert "more than once: a" in refusal({**TWO, "clients": TWO["clients"] * 2})
    assert load_config(TWO).clients[0].name == "a"


def test_a_folder_that_is_gone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert "the working directory is gone" in refusal(TWO)
    monkeypatch.chdir(tmp_path)
