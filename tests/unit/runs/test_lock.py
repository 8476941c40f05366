"""One writer for each run, by a lock that dies with its holder."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tests.unit.runs.test_origin import committed, config_of
from zk0.errors import RunNameError
from zk0.report.terminal import status_view
from zk0.runs.progress import status_json
from zk0.runs.store import RunStore
from zk0.runs.will import somebody

HOLD = r"""
import os, sys, time
from zk0.runs.store import RunStore
with RunStore.open(sys.argv[1]).lock():
    if sys.argv[2:]:
        if os.fork() == 0:
            os.setsid()
            os.write(1, f"{os.getpid()}\n".encode())  # in one piece
            time.sleep(60)
    os.write(1, b"held\n")
    time.sleep(60)
"""


def hold(store: RunStore, *extra: str) -> tuple["subprocess.Popen[str]", list[str]]:
    """A process that holds the lock, and what it said before."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store.folder), *extra], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines = [process.stdout.readline().strip() for _ in range(1 + len(extra))]
    assert "held" in lines
    return process, lines


def test_one_writer_and_sigkill_frees_the_lock(store: RunStore) -> None:
    process, _ = hold(store)
    holder = store.holder()
    assert holder is not None
    assert holder["pid"] == process.pid
    with pytest.raises(RunNameError, match=rf"advanced by process {process.pid} on .* since .*; wait"), store.lock():
        pass
    process.kill()
    process.communicate()
    assert store.holder() is None
    with store.lock():
        assert (store.holder() or {})["pid"] == os.getpid()
    assert store.holder() is None


def test_a_forked_child_does_not_outlive_its_parent_with_the_lock(store: RunStore) -> None:
    process, lines = hold(store, "fork")
    child = next(int(line) for line in lines if line != "held")
    process.kill()
    process.wait()
    try:
        os.kill(child, 0)  # it lives
        with store.lock():
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        process.communicate()


def test_a_run_stopped_by_hand_says_so_until_it_goes_on(tmp_path: Path) -> None:
    store = committed(config_of(tmp_path), "mine", 1)
    store.mark_stopped()
    will = RunStore.open(store.folder).stopped
    assert will is not None
    assert will.words.startswith(f"interrupted by {somebody()} at 20")
    assert status_json(store.folder)["stopped"]["what"] == "interrupted"
    assert "zk0 resume mine" in shown(store.folder)
    with store.lock():
        assert store.stopped is None
        assert status_json(store.folder)["stopped"] is None
    assert store.stopped is None


@pytest.mark.parametrize("content", [b"", b"{", b'{"what": "cancelled"}', bytes(2**17)])
def test_what_cannot_be_read_of_a_will_is_a_will_still(store: RunStore, content: bytes) -> None:
    """Empty files are those of earlier versions."""
    (store.folder / "stopped").write_bytes(content)
    assert store.stopped is not None
    assert store.stopped.what == "interrupted"


def test_a_will_says_who_what_and_why(store: RunStore) -> None:
    store.mark_stopped("cancelled", "Prefect", "by a person")
    assert store.stopped is not None
    assert store.stopped.words.startswith("cancelled by Prefect at ")
    assert store.stopped.words.endswith(" UTC: by a person")


def shown(folder: Path) -> str:
    console = Console(width=200, record=True)
    console.print(status_view(folder))
    return console.export_text()
