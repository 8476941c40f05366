"""Every file of a run directory, damaged in every way: whatever the store then hands out is what was written.

A run is a pure function of its config, the round it goes on from and the finished work it finds. So where these are
right, so is its end; `python -m benchmarks.damage` shows the same with whole runs through the command line.
"""

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from loguru import logger

from tests.unit.runs.made import commit, fit, make_config
from zk0.errors import BadInputError, StorageError
from zk0.runs.records import RoundState
from zk0.runs.store import RunStore
from zk0.work.records import ClientResult
from zk0.work.results import find_finished

CLIENTS = ("left", "right")
BITS = 12
"""Bits that are flipped in each file, one at a time, drawn by a seed."""


@dataclass(frozen=True)
class Killed:
    """A run directory, and what is true of it."""

    folder: Path
    states: list[RoundState]
    results: dict[tuple[int, str], ClientResult]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """Rounds 0 and 1 are committed, round 2 has finished work."""
    store = RunStore.create_or_open(make_config(tmp_path_factory.mktemp("damage")), "run")
    states: list[RoundState] = []
    results: dict[tuple[int, str], ClientResult] = {}
    for server_round in (0, 1, 2):
        before = states[-1] if states else None
        made = [fit(store, server_round, client, before) for client in CLIENTS]
        results |= {(server_round, result.client): result for result in made}
        if server_round < 2:
            states.append(commit(store, server_round, made))
    with store.lock():
        (store.folder / "run.log").write_text("all is well\n")
    return Killed(store.folder, states, results)


def what_is_found(folder: Path) -> tuple[RoundState | None, dict[tuple[int, str], ClientResult]]:
    """What a run would go on from: the newest whole round and the finished work of the one after it."""
    store = RunStore.open(folder)
    with store.lock():
        state = store.resume_point()
        following = 0 if state is None else state.server_round + 1
        tasks = [store.task("train", following, client, state) for client in CLIENTS]
        found = {(task.server_round, task.client): find_finished(task) for task in tasks}
        assert [line["server_round"] for line in store.read_metrics()] == list(range(following))
        if state is not None:
            dict(store.load_strategy_state(state.server_round)[0])  # all of them are read
        return state, {where: result for where, result in found.items() if result is not None}


def check(killed: Killed, folder: Path, file: Path) -> str:
    """Damaged as it is, the run is refused by a message that names the file, or finds nothing but what is true."""
    warnings: list[str] = []
    handle = logger.add(warnings.append, level="WARNING", format="{message}")
    refusal = ""
    try:
        state, found = what_is_found(folder)
    except (StorageError, BadInputError) as error:
        refusal = str(error)
    finally:
        logger.remove(handle)
    if refusal:
        assert file.name in refusal
        return "refused"
    assert state is None or state == killed.states[state.server_round]
    assert all(result == killed.results[where] for where, result in found.items())
    complete = state == killed.states[-1] and len(found) == len(CLIENTS)
    assert complete or not file.exists() or any(file.name in warning for warning in warnings), "nobody named it"
    return "whole" if complete else "done again"


@contextmanager
def copies(killed: Killed, tmp_path: Path) -> Iterator[Path]:
    """The place of the copies; the run's name is its folder's, so each copy takes the place of the last."""
    folder = tmp_path / "copy" / killed.folder.name
    yield folder
    shutil.rmtree(folder.parent, ignore_errors=True)


def files_of(folder: Path) -> list[Path]:
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert len(files) > 20
    return files


def fresh(original: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(original, folder)


def test_every_file_truncated_at_many_places_or_deleted(killed: Killed, tmp_path: Path) -> None:
    outcomes = []
    with copies(killed, tmp_path) as folder:
        for file in files_of(killed.folder):
            size = (killed.folder / file).stat().st_size
            for length in sorted({0, 1, size // 2, size - 1, None}, key=str):
                fresh(killed.folder, folder)
                if length is None:
                    (folder / file).unlink()
                elif length < size:
                    os.truncate(folder / file, length)
                outcomes.append(check(killed, folder, folder / file))
    assert set(outcomes) == {"refused", "whole", "done again"}


def test_one_bit_of_every_file_flipped(killed: Killed, tmp_path: Path) -> None:
    rng, outcomes = random.Random(5), []
    with copies(killed, tmp_path) as folder:
        for file in files_of(killed.folder):
            for _ in range(BITS):
                fresh(killed.folder, folder)
                data = bytearray((killed.folder / file).read_bytes())
                if data:
                    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
                (folder / file).write_bytes(data)
                outcomes.append(check(killed, folder, folder / file))
    assert set(outcomes) == {"refused", "whole", "done again"}


def test_every_file_unreadable(killed: Killed, tmp_path: Path) -> None:
    outcomes = []
    with copies(killed, tmp_path) as folder:
        for file in files_of(killed.folder):
            fresh(killed.folder, folder)
            (folder / file).chmod(0)
            with an_ordinary_user(folder, tmp_path):
                outcomes.append(check(killed, folder, folder / file))
    assert set(outcomes) == {"refused", "whole"}


@contextmanager
def an_ordinary_user(folder: Path, tmp_path: Path) -> Iterator[None]:
    """Root may read everything: be nobody, who owns the copy, for a while."""
    if os.geteuid() != 0:
        yield
        return
    nobody = 65534
    for path in [folder.parent, folder, *folder.rglob("*")]:
        os.chown(path, nobody, nobody)
    for parent in (tmp_path, *tmp_path.parents):
        parent.chmod(parent.stat().st_mode | 0o011)
    os.seteuid(nobody)
    try:
        yield
    finally:
        os.seteuid(0)
