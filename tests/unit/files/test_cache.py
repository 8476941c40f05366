"""Records that spare work: whatever happens to them costs only that work."""

import os
from pathlib import Path

import pytest

from zk0.files import cache


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZK0_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_is_kept_is_found_again(folder: Path) -> None:
    assert cache.read("kind", "a") == {}
    cache.write("kind", "a", {"x": [1, "y"]})
    assert cache.read("kind", "a") == {"x": [1, "y"]}
    assert cache.read("other", "a") == {}
    assert [path.name for path in folder.rglob("*.json")] == ["a.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff", b'{"x": 1, "checksum": "0"}', b"[" * 10**5])
def test_a_broken_record_is_none(folder: Path, content: bytes) -> None:
    cache.write("kind", "a", {"x": 1})
    (folder / "kind" / "a.json").write_bytes(content)
    assert cache.read("kind", "a") == {}
    cache.write("kind", "a", {"x": 2})
    assert cache.read("kind", "a") == {"x": 2}


def test_without_a_place_for_it_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for place in (os.devnull, str(tmp_path / "file" / "below"), "/proc/zk0"):
        monkeypatch.setenv("ZK0_CACHE", place)
        cache.write("kind", "a", {"x": 1})
        assert cache.read("kind", "a") == {}
    monkeypatch.delenv("ZK0_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "~nosuchuser/cache")
    assert cache.folder() is None
    cache.write("kind", "a", {"x": 1})
    assert cache.read("kind", "a") == {}


def test_the_oldest_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MOST_RECORDS", 4)
    for number in range(5):
        cache.write("kind", str(number), {})
        os.utime(folder / "kind" / f"{number}.json", (number, number))
    assert sorted(path.stem for path in folder.rglob("*.json")) == ["2", "3", "4"]
