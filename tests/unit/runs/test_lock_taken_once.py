"""The lock of a run directory: taken once per context, refused to everyone else, gone with its holder."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path

import pytest

from benchmarks.service import small_run
from zk0.config import validate_config
from zk0.errors import RunNameError
from zk0.runs import lock
from zk0.runs.progress import read_progress
from zk0.runs.store import RunStore


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore.create_or_open(validate_config(small_run(tmp_path / "outputs")), "run")


def take(store: RunStore) -> str:
    """Take the lock for an instant: "taken", or why it was refused."""
    try:
        with RunStore.open(store.folder).lock():
            return "taken"
    except RunNameError as error:
        return str(error)


def in_a_thread(do: Callable[[], str]) -> str:
    said: list[str] = []
    thread = threading.Thread(target=lambda: said.append(do()))
    thread.start()
    thread.join()
    return said[0]


def in_a_process(store: RunStore) -> str:
    code = "import sys; from tests.unit.runs.test_lock_taken_once import *; print(take(RunStore.open(sys.argv[1])))"
    command = [sys.executable, "-c", code, str(store.folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_lock_is_taken_once_in_a_context(store: RunStore) -> None:
    with store.lock():
        written = (store.folder / "run.lock").read_bytes()
        again = RunStore.open(store.folder)
        with again.lock(), store.lock():
            assert (store.folder / "run.lock").read_bytes() == written
        assert (again.holder() or {})["pid"] == os.getpid()  # an inner end releases nothing
        assert (store.folder / "run.lock").read_bytes() == written
        assert "advanced by process" in in_a_process(store)
    assert store.holder() is None
    assert in_a_process(store) == "taken"


def test_another_thread_is_refused_until_the_outermost_ends(store: RunStore) -> None:
    with store.lock():
        with store.lock():
            pass
        assert f"run 'run' is being advanced by process {os.getpid()} on " in in_a_thread(lambda: take(store))
    assert in_a_thread(lambda: take(store)) == "taken"


def test_a_thread_that_was_given_the_context_is_within_it(store: RunStore) -> None:
    with store.lock():
        given = copy_context()
        assert in_a_thread(lambda: given.run(take, store)) == "taken"
    with store.lock():  # it holds this one no more than any other thread
        assert "advanced by process" in in_a_thread(lambda: given.run(take, store))


def test_a_context_that_outlives_the_lock_takes_it_anew(store: RunStore) -> None:
    with store.lock():
        given = copy_context()
    assert not given.run(lock.is_ours, store.folder)
    assert given.run(take, store) == "taken"


def test_a_forked_child_has_no_part_in_it(store: RunStore) -> None:
    with store.lock():
        child = os.fork()
        if child == 0:
            os._exit(0 if "advanced by process" in take(store) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert lock.is_ours(store.folder)


def test_another_run_has_a_lock_of_its_own(store: RunStore) -> None:
    other = RunStore.create_or_open(store.config, "other")
    with store.lock():
        assert not lock.is_ours(other.folder)
        with other.lock():
            assert (other.holder() or {})["pid"] == os.getpid()
        assert other.holder() is None
        assert store.holder() is not None


def test_one_folder_by_two_paths_is_one_lock(store: RunStore, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(store.folder)
    with store.lock(), RunStore.open(tmp_path / "link").lock():
        pass
    assert store.holder() is None


def test_an_inner_lock_brings_its_config_along(store: RunStore) -> None:
    with store.lock():
        executor = store.config.executor.model_copy(update={"max_parallel": 7})
        again = RunStore.create_or_open(store.config.model_copy(update={"executor": executor}), "run")
        with again.lock():
            pass
    assert RunStore.open(store.folder).config.executor.max_parallel == 7


@pytest.mark.parametrize("content", ["", "{", "[1]", '"x"', "[" * 10**5, json.dumps({"pid": 2**60, "host": "x"})])
def test_what_the_lock_says_is_not_trusted(store: RunStore, content: str) -> None:
    with store.lock():
        (store.folder / "run.lock").write_text(content)
        holder = store.holder()
        assert holder is not None
        assert holder.keys() == {"pid", "host", "started_at"}
        assert "is being advanced by process" in in_a_thread(lambda: take(store))
        assert (read_progress(store.folder).state, read_progress(store.folder).pid) == ("running", None)


def test_a_lock_that_cannot_be_read_is_nobodys_in_the_progress(store: RunStore) -> None:
    (store.folder / "run.lock").mkdir()
    assert read_progress(store.folder).state == "interrupted"
