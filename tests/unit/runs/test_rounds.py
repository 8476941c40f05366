"""Rounds in the run directory: what is there after anything happened is whole, found, and used once."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import fill
from tests.unit.runs.made import commit, fit, make_config, weights
from zk0.errors import StorageError
from zk0.files import atomic
from zk0.runs.records import RoundState
from zk0.runs.rounds import KEPT_DAMAGED
from zk0.runs.store import RunStore
from zk0.work.records import ArtifactRef

# -- commit and resume


def test_commit_and_resume_point(store: RunStore) -> None:
    assert store.resume_point() is None
    state = commit(store, 0)
    results = [fit(store, 1, client, state) for client in ("left", "right")]
    state = commit(store, 1, results)
    assert state.stats is not None
    assert store.resume_point() == state
    assert store.committed_rounds() == [0, 1]
    np.testing.assert_array_equal(atomic.read_tensors(store.path(state.arrays))["w"], weights(1)["w"])
    assert store.read_metrics() == [{"server_round": 0, "loss": 1.0}, {"server_round": 1, "loss": 0.5}]
    tensors, scalars = store.load_strategy_state(1)
    assert list(tensors) == ["m_t/w"]
    assert scalars == {"m_t": ["dict", ["w"]]}
    assert store.load_strategy_state(0) == ({}, {})
    manifest = atomic.read_sealed(store.round_folder(1) / "manifest.json")
    assert [Path(ref["path"]).relative_to("rounds/0001").as_posix() for ref in manifest["files"]] == [
        "clients/left/train.json", "clients/left/update.safetensors",
        "clients/right/train.json", "clients/right/update.safetensors",
        "global.safetensors", "metrics.json", "stats.safetensors", "strategy.json", "strategy.safetensors",
    ]  # fmt: skip


def test_tensors_that_lie_there_already(store: RunStore) -> None:
    placed = store.place(0, "global", weights(0))
    stats = store.place(0, "stats", {"mean": np.zeros(2)})
    common: dict[str, Any] = {"strategy_tensors": {}, "strategy_scalars": {}, "metrics": {}}
    state = store.commit(0, arrays=placed, stats=stats, **common)
    assert state == RoundState(server_round=0, arrays=placed, stats=stats)
    later = store.commit(1, arrays=store.path(placed), stats=state.stats, **common)
    assert later.stats is not None
    assert (later.stats.path, later.stats.sha256) == ("rounds/0001/stats.safetensors", stats.sha256)
    with pytest.raises(StorageError, match="SHA-256"):
        store.place(2, "global", ArtifactRef(path=placed.path, sha256="0" * 64, size=1))


def test_a_repeated_commit_adds_no_line(store: RunStore) -> None:
    for server_round in (0, 1, 1, 0):
        commit(store, server_round)
    assert len((store.folder / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "global.safetensors").write_bytes(b"x"),
        lambda folder: (folder / "strategy.json").unlink(),
        lambda folder: (folder / "manifest.json").write_text("{"),
        lambda folder: (folder / "manifest.json").write_text('{"run_id": 3}'),
        lambda folder: (folder / "clients/left/update.safetensors").write_bytes(b""),
    ],
)
def test_a_damaged_round_is_named_set_aside_and_made_again(
    store: RunStore, warnings: list[str], damage: Callable[[Path], None]
) -> None:
    expected = [commit(store, server_round) for server_round in (0, 1)][-1]
    for attempt in (1, 2):
        commit(store, 2, [fit(store, 2, "left", expected)])
        fit(store, 3, "left", expected)  # the round under way
        damage(store.round_folder(2))
        assert store.resume_point() == expected
        assert (store.folder / "rounds" / f"0002.damaged-{attempt}").is_dir()
        assert store.committed_rounds() == [0, 1]
        assert [line["server_round"] for line in store.read_metrics()] == [0, 1]
        assert (store.round_folder(3) / "clients/left/train.json").exists()
    assert len(store.damage) == 2
    assert "round 2 is damaged" in warnings[0]
    assert "0002.damaged-1" in warnings[0]


def test_nothing_whole_is_a_start_from_scratch(store: RunStore) -> None:
    commit(store, 0)
    (store.round_folder(0) / "global.safetensors").unlink()
    assert store.resume_point() is None
    assert store.committed_rounds() == []
    assert store.read_metrics() == []


def test_metrics_lines_are_mended(store: RunStore) -> None:
    for server_round in range(4):
        commit(store, server_round)
    path = store.folder / "metrics.jsonl"
    whole = path.read_text()
    lines = whole.splitlines(keepends=True)
    store.prune(keep=2)  # round 1 lives on in its line only
    for torn in (whole[:-4], "".join(lines[:3]), "".join([*lines[:2], lines[3]]), "".join([*lines, lines[3]])):
        path.write_text(torn)
        assert [line["server_round"] for line in store.read_metrics()] == [0, 1, 2, 3]
        store.resume_point()
        assert path.read_text() == whole


def test_prune_keeps_the_newest_the_base_and_the_best(store: RunStore) -> None:
    for server_round in range(7):
        commit(store, server_round)
    state = store.resume_point()
    (store.folder / "rounds" / ".trash-0009").mkdir()
    store.prune(keep=2, best_round=3)
    assert store.committed_rounds() == [0, 3, 5, 6]
    assert sorted(path.name for path in (store.folder / "rounds").iterdir()) == ["0000", "0003", "0005", "0006"]
    assert store.resume_point() == state
    assert len(store.read_metrics()) == 7


# -- deaths


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_death_at_every_single_step_of_a_commit(tmp_path: Path) -> None:
    """A forked child is killed in the n-th write (half of it done) or as it enters the n-th fsync, rename, unlink or
    mkdir, for every n."""
    store = RunStore.create_or_open(make_config(tmp_path), "run")
    before = commit(store, 0)
    step, finished = 0, False
    while not finished:
        step += 1
        child = os.fork()
        if child == 0:
            _die_at_step(step)
            commit(store, 1, [fit(store, 1, "left", before)])
            store.prune(keep=1)
            os._exit(0)
        finished = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        state = store.resume_point()
        assert state is not None
        assert [line["server_round"] for line in store.read_metrics()] == list(range(state.server_round + 1))
        if not finished:
            _forget_round(store, 1)
    assert step > 45
    assert store.damage == []
    assert state == store.resume_point()
    assert store.committed_rounds() == [0, 1]


class TornFile:
    """A file whose last write before death is done by half."""

    def __init__(self, file: Any, is_last: Callable[[], bool]) -> None:
        self._file = file
        self._is_last = is_last

    def write(self, data: Any) -> None:
        if self._is_last():
            self._file.write(memoryview(data)[: len(data) // 2])
            self._file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "TornFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _die_at_step(number: int) -> None:
    steps = iter(range(1, 10_000))

    def is_last() -> bool:
        return next(steps) == number

    def deadly(original: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            if is_last():
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        return step

    for name in ("fsync", "replace", "rename", "unlink", "mkdir"):
        setattr(os, name, deadly(getattr(os, name)))

    plain_open = Path.open
    Path.open = lambda path, mode="r", *a, **k: (  # type: ignore[assignment]
        TornFile(plain_open(path, mode, *a, **k), is_last) if mode in ("wb", "ab+") else plain_open(path, mode, *a, **k)
    )


def _forget_round(store: RunStore, server_round: int) -> None:
    if store.round_folder(server_round).exists():
        atomic.remove_folder(store.round_folder(server_round))


COMMITS = """
import sys
import numpy as np
from zk0.runs.store import RunStore
store = RunStore.open(sys.argv[1])
with store.lock():
    state = store.resume_point()
    print("ready", flush=True)
    for r in range(state.server_round + 1 if state else 0, 10_000):
        arrays = {"w": np.full(1000, r, np.float32)}
        store.commit(r, arrays=arrays, strategy_tensors={}, strategy_scalars={}, metrics={"loss": float(r)})
        store.prune(keep=2)
"""


def test_a_disk_that_fills_up_at_every_point_of_a_commit(make_disk: Callable[[str], Path]) -> None:
    """With 0, 1, 2... free pages: an error until the commit fits, the round before whole, and no damage ever."""
    disk = make_disk("1m")
    store = RunStore.create_or_open(make_config(disk), "run")
    before = commit(store, 0)
    refused: list[str] = []
    while True:
        filler = fill(disk, but=len(refused) * os.sysconf("SC_PAGE_SIZE"))
        try:
            commit(store, 1, [fit(store, 1, "left", before)])
            break
        except StorageError as error:
            refused.append(str(error))
        finally:
            filler.unlink()
        assert store.resume_point() == before
        _forget_round(store, 1)
    assert all("No space left" in text for text in refused)
    assert len(refused) >= 8
    assert store.damage == []
    assert store.committed_rounds() == [0, 1]


def test_sigkill_among_commits_leaves_a_resume_point(store: RunStore) -> None:
    reached = -1
    for attempt in range(4):
        process = subprocess.Popen([sys.executable, "-c", COMMITS, str(store.folder)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(random.Random(attempt).uniform(0.05, 0.3))
        process.kill()
        process.communicate()
        state = store.resume_point()
        if state is not None:
            assert state.server_round >= reached
            reached = state.server_round
            assert atomic.read_tensors(store.path(state.arrays))["w"][0] == reached
            lines = [json.loads(line) for line in (store.folder / "metrics.jsonl").read_text().splitlines()]
            assert [line["server_round"] for line in lines] == list(range(reached + 1))
    assert reached > 0
    assert store.damage == []


# -- bounds


def newest(store: RunStore) -> int | None:
    state = store.resume_point()
    return None if state is None else state.server_round


def test_damaged_rounds_do_not_pile_up(store: RunStore) -> None:
    commit(store, 0)
    for _ in range(KEPT_DAMAGED + 4):
        commit(store, 1)
        store.prune(2)
        (store.round_folder(1) / "global.safetensors").write_bytes(b"damaged")
        assert newest(store) == 0
    commit(store, 1)
    store.prune(2)
    left = sorted(path.name for path in (store.folder / "rounds").glob("*.damaged-*"))
    assert len(left) == KEPT_DAMAGED
    assert newest(store) == 1


def test_rounds_do_not_pile_up(store: RunStore) -> None:
    for number in range(12):
        commit(store, number)
        store.prune(2)
    assert store.committed_rounds() == [0, 10, 11]
    assert len(list((store.folder / "rounds").iterdir())) == 3
