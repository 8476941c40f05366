"""What a dataset's files hold: seen in every change, read once."""

import os
import shutil
import time
from pathlib import Path

import pytest

from zk0.data.digest import UNREADABLE, file_digests

OLD = time.time_ns() - 10**12


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset's folder whose files came to be some time ago, as far as their clock goes."""
    monkeypatch.setenv("ZK0_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("zk0.data.digest.SETTLED_NS", -1)  # the time of the last change of a file cannot be set back
    for name in ("meta/info.json", "data/chunk-000/file-000.parquet", "videos/front/chunk-000/file-000.mp4"):
        (tmp_path / "set" / name).parent.mkdir(parents=True)
        (tmp_path / "set" / name).write_text(name)
    (tmp_path / "set" / "README.md").write_text("not of the recording")
    return tmp_path / "set"


def digests(root: Path) -> tuple[dict[str, str], list[str]]:
    """The digests, and which files were read for them."""
    read: list[str] = []
    return file_digests(root, read.append), [line.removeprefix("reading ") for line in read]


def test_every_file_is_read_once_and_a_changed_one_again(root: Path) -> None:
    first, read = digests(root)
    assert read == list(first) == sorted(first)
    assert len(first) == 3
    assert digests(root) == (first, [])
    video = root / "videos/front/chunk-000/file-000.mp4"
    status = video.stat()
    video.write_text(video.read_text().upper())
    os.utime(video, ns=(status.st_atime_ns, status.st_mtime_ns))  # a copy that keeps times, of the same size
    again, read = digests(root)
    assert read == ["videos/front/chunk-000/file-000.mp4"]
    assert {name for name in first if first[name] != again[name]} == set(read)
    shutil.copy(root / "meta/info.json", root / "meta/stats.json")
    assert digests(root)[1] == ["meta/stats.json"]
    (root / "meta/stats.json").unlink()
    assert digests(root) == (again, [])


def test_what_has_just_changed_is_not_believed_to_stay(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zk0.data.digest.SETTLED_NS", 10**15)
    first, read = digests(root)
    assert digests(root) == (first, read)


def test_links_are_followed_and_lead_nowhere_in_circles(root: Path, tmp_path: Path) -> None:
    plain = digests(root)[0]
    (root / "videos/front").rename(tmp_path / "elsewhere")
    (root / "videos/front").symlink_to(tmp_path / "elsewhere")
    (root / "videos/again").symlink_to(root / "videos")
    (root / "videos/gone.mp4").symlink_to(tmp_path / "gone")
    os.mkfifo(root / "data/pipe")
    assert digests(root)[0] == plain


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_cannot_be_read_is_marked(root: Path) -> None:
    (root / "meta/info.json").chmod(0)
    assert digests(root)[0]["meta/info.json"] == UNREADABLE


def test_a_broken_cache_is_none(root: Path, tmp_path: Path) -> None:
    first, read = digests(root)
    for record in (tmp_path / "cache").rglob("*.json"):
        record.write_text('{"meta/info.json": 3}')
    assert digests(root) == (first, read)
