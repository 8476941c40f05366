"""Odd things in the place of the files at a run's door: one sentence, nothing overwritten, nothing that waits."""

import fcntl
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.unit.runs.made import commit, make_config
from zk0.errors import RunNameError, StorageError, Zk0Error
from zk0.runs.progress import status_json
from zk0.runs.store import RunStore
from zk0.runs.turn import Turn

PRECIOUS = "nobody may write here"
LIMIT_S = 10


def linked(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def hard_linked(path: Path, victim: Path) -> None:
    os.link(victim, path)


def dangling(path: Path, victim: Path) -> None:
    path.symlink_to(victim.with_name("gone"))


def fifo(path: Path, _: Path) -> None:
    os.mkfifo(path)


def folder(path: Path, _: Path) -> None:
    path.mkdir()
    (path / "inside").write_text(PRECIOUS)


ODD: list[Callable[[Path, Path], None]] = [linked, hard_linked, dangling, fifo, folder]


@contextmanager
def in_time() -> Iterator[None]:
    """Whatever waits longer is ended."""
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it hangs"))
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)


def act(run: Path) -> str:
    """What a resume does first; gives the sentence that it is refused by."""
    refusal: Zk0Error | None = None
    try:
        with in_time():
            store = RunStore.open(run)
            assert store.holder() is None
            _ = store.stopped
            with store.lock():
                store.resume_point()
    except Zk0Error as error:
        refusal = error
    assert refusal is None or refusal.exit_code in (2, 4)
    return str(refusal or "")


@pytest.mark.parametrize("make", ODD)
@pytest.mark.parametrize("name", ["run.lock", "run.json", "stopped", "served.json", "metrics.jsonl", "data.json"])
def test_an_odd_thing_in_a_files_place(
    store: RunStore, tmp_path: Path, name: str, make: Callable[[Path, Path], None]
) -> None:
    commit(store, 0)
    victim, path = tmp_path / "victim", store.folder / name
    victim.write_text(PRECIOUS)
    path.unlink(missing_ok=True)
    make(path, victim)
    refused = act(store.folder)
    if name in ("run.lock", "run.json"):
        assert path.name in refused
        assert "\n" not in refused
    assert victim.read_text() == PRECIOUS
    kept = [found.read_text() for found in store.folder.rglob("inside")]
    assert kept == ([PRECIOUS] if make is folder else [])
    with in_time():
        status_json(store.folder)
    assert store.damage == []


@pytest.mark.parametrize("make", ODD)
def test_an_odd_thing_in_the_turns_place(tmp_path: Path, make: Callable[[Path, Path], None]) -> None:
    victim = tmp_path / "victim"
    victim.write_text(PRECIOUS)
    make(tmp_path / ".turn", victim)
    with in_time(), pytest.raises(StorageError, match=r"\.turn: cannot be written: is .*; move it away"):
        Turn(tmp_path)
    assert victim.read_text() == PRECIOUS


@pytest.mark.parametrize("content", [b"", b"5", b"[1]", b"{}", b'{"pid": 1}', b"null", b"[" * 4000, bytes(range(256))])
def test_a_held_lock_with_odd_words(store: RunStore, content: bytes) -> None:
    with (store.folder / "run.lock").open("wb") as file:
        file.write(content)
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RunNameError) as caught, store.lock():
            pass
    assert "None" not in str(caught.value).replace("on None since None", "")
    assert "\n" not in str(caught.value)
    assert (store.folder / "run.lock").read_bytes() == content


def test_a_run_that_an_old_backup_shares_its_files_with_goes_on(store: RunStore, tmp_path: Path) -> None:
    """`cp -al`: the lock has two names, and is a lock."""
    with store.lock():
        commit(store, 0)
    (tmp_path / "backup").mkdir()
    os.link(store.folder / "run.lock", tmp_path / "backup" / "run.lock")
    assert act(store.folder) == ""


def test_a_lock_is_none_where_a_run_is_made(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "run.lock").symlink_to(tmp_path / "gone")
    with pytest.raises(RunNameError, match="it is not a run of zk0"):
        RunStore.create_or_open(make_config(tmp_path), "new")
