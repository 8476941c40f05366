"""The run directory: what is there after anything happened is whole, found, and used once."""

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
from loguru import logger
from numpy.typing import NDArray

from tests.conftest import fill
from zk0.config import RunConfig
from zk0.errors import ConfigError, RunNameError, StorageError
from zk0.files import atomic
from zk0.preflight.disk import check_free_space
from zk0.runs.records import RoundState
from zk0.runs.store import RunStore
from zk0.work.records import ArtifactRef, ClientResult
from zk0.work.results import find_finished, write_result


def make_config(outputs: Path, **changes: Any) -> RunConfig:
    """A valid config with two clients."""
    clients = [{"name": name, "repo_id": f"lab/{name}", "root": "/data"} for name in ("left", "right")]
    return RunConfig.model_validate(
        {"outputs_dir": str(outputs), "clients": clients, "policy": {"path": "lab/base"}} | changes
    )


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore.create_or_open(make_config(tmp_path), "run")


@pytest.fixture
def warnings() -> list[str]:
    lines: list[str] = []
    logger.add(lines.append, level="WARNING", format="{message}")
    return lines


def weights(server_round: int) -> dict[str, NDArray[Any]]:
    """The global tensors of a round."""
    return {"w": np.full((2, 3), server_round, np.float32)}


def commit(store: RunStore, server_round: int, results: list[ClientResult] | None = None) -> RoundState:
    """Commit a round with everything in it."""
    return store.commit(
        server_round,
        arrays=weights(server_round),
        strategy_tensors={"m_t/w": np.ones(3)} if server_round else {},
        strategy_scalars={"m_t": ["dict", ["w"]]} if server_round else {},
        metrics={"loss": 1.0 / (server_round + 1)},
        results=results or [],
        stats={"mean": np.zeros(2)},
    )


def fit(store: RunStore, server_round: int, client: str, state: RoundState | None) -> ClientResult:
    """A client's finished work."""
    return write_result(
        store.task("train", server_round, client, state),
        tensors=weights(server_round),
        num_examples=5,
        metrics={"loss": 0.5},
        duration_s=1.0,
        peak_rss_bytes=1,
    )


# -- create and open


def test_a_new_run_is_a_pure_function_of_config_and_name(tmp_path: Path) -> None:
    one = RunStore.create_or_open(make_config(tmp_path / "a"), "run")
    two = RunStore.create_or_open(make_config(tmp_path / "b"), "run")
    assert one.info.id == two.info.id != RunStore.create_or_open(make_config(tmp_path / "b"), "other").info.id
    info = atomic.read_sealed(tmp_path / "a" / "run" / "run.json")
    assert info["config"] == one.config.model_dump(mode="json")
    assert (info["config_digest"], info["seed"]) == (one.config.digest, 42)
    assert info["versions"].keys() == {"zk0", "lerobot", "flwr", "prefect", "peft", "torch"}


def test_the_same_config_opens_the_run_and_brings_its_executor_along(tmp_path: Path) -> None:
    first = RunStore.create_or_open(make_config(tmp_path), "run")
    before = (tmp_path / "run" / "run.json").read_bytes()
    changed = {"executor": {"max_parallel": 7}, "checkpoint": {"keep": 9}, "logging": {"level": "DEBUG"}}
    again = RunStore.create_or_open(make_config(tmp_path, **changed), "run")
    assert (again.info.id, again.config.executor.max_parallel) == (first.info.id, 7)
    assert (tmp_path / "run" / "run.json").read_bytes() == before  # nobody writes without the lock
    with again.lock():
        pass
    assert RunStore.open(tmp_path, "run").config == again.config


def test_another_config_is_refused_and_the_keys_are_named(tmp_path: Path) -> None:
    RunStore.create_or_open(make_config(tmp_path), "run")
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(RunNameError) as caught:
        RunStore.create_or_open(
            make_config(tmp_path, seed=7, training={"steps": 3}, executor={"max_parallel": 2}), "run"
        )
    text = str(caught.value)
    assert "seed is 42 there, 7 here" in text
    assert "training.steps is 200 there, 3 here" in text
    assert "another --name" in text
    assert "executor" not in text
    assert (tmp_path / "run" / "run.json").read_bytes() == before


@pytest.mark.parametrize("name", ["", "../up", "Upper", "a b", "a/b", "a" * 64])
def test_bad_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunNameError, match="run name"):
        RunStore.create_or_open(make_config(tmp_path), name)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(RunNameError, match="not a run of zk0"):
        RunStore.create_or_open(make_config(tmp_path), "photos")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / ".run.json.123.tmp").touch()  # a creation that was killed
    RunStore.create_or_open(make_config(tmp_path), "half")


def test_outputs_dir_that_cannot_be_written_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for outputs in (tmp_path / "file", Path("/proc/zk0")):
        with pytest.raises(ConfigError, match=r"outputs_dir = '.*': cannot be written") as caught:
            RunStore.create_or_open(make_config(outputs), "run")
        assert caught.value.exit_code == 2


def test_unknown_damaged_and_listed_runs(tmp_path: Path, warnings: list[str]) -> None:
    RunStore.create_or_open(make_config(tmp_path), "old")
    RunStore.create_or_open(make_config(tmp_path), "new")
    RunStore.create_or_open(make_config(tmp_path), "broken")
    (tmp_path / "broken" / "run.json").write_text("{")
    assert [run.info.name for run in RunStore.list_runs(tmp_path)] == ["new", "old"]
    assert "broken" in warnings[0]
    with pytest.raises(RunNameError, match="runs there: new, old"):
        RunStore.open(tmp_path, "older")
    with pytest.raises(StorageError, match=r"broken/run.json: cannot be read"):
        RunStore.open(tmp_path, "broken")
    assert RunStore.open(tmp_path / "old").info.name == "old"
    assert RunStore.list_runs(tmp_path / "nothing") == []


def test_free_space(tmp_path: Path) -> None:
    outputs = tmp_path / "not" / "there"
    check_free_space(str(outputs), 1)
    with pytest.raises(ConfigError, match=r"outputs_dir = .* needs 1073741824.00 GiB"):
        check_free_space(str(outputs), 1 << 60)
    assert not outputs.exists()


# -- the lock

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


# -- client work


def test_finished_work_is_found_by_its_key_and_only_whole(store: RunStore, warnings: list[str]) -> None:
    state = commit(store, 0)
    task = store.task("train", 1, "left", state, proximal_mu=0.5)
    assert find_finished(task) is None
    result = write_result(
        task, tensors=weights(1), num_examples=5, metrics={"loss": 0.5}, duration_s=1.0, peak_rss_bytes=1
    )
    assert result.tensors is not None
    assert result.tensors.path == "rounds/0001/clients/left/update.safetensors"
    assert find_finished(task) == result
    assert find_finished(store.task("train", 1, "left", state, proximal_mu=0.25)) is None
    assert warnings == []
    path = store.path(result.tensors)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert find_finished(task) is None
    path.unlink()
    assert find_finished(task) is None
    (task.folder / "train.json").write_text('{"key": ')
    assert find_finished(task) is None
    assert len(warnings) == 3
    assert all("left" in line for line in warnings)


def test_kinds_lie_side_by_side(store: RunStore) -> None:
    task = store.task("statistics", 0, "left")
    result = write_result(
        task, tensors={"mean": np.ones(2)}, num_examples=5, metrics={}, duration_s=1.0, peak_rss_bytes=1
    )
    init = store.task("init", 0, "left")
    write_result(init, tensors=None, num_examples=0, metrics={"nan": float("nan")}, duration_s=0.1, peak_rss_bytes=1)
    assert sorted(path.name for path in task.folder.iterdir()) == [
        "init.json", "statistics.json", "statistics.safetensors"
    ]  # fmt: skip
    assert find_finished(task) == result
    assert find_finished(init) is not None


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
    Path.open = lambda path, mode="r", *a, **k: (  # type: ignore[method-assign, assignment, misc]
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
