"""A client's death has a cause, a bounded number of retries, and a quorum that decides what it means for the round."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import zk0 as zk0_run
from benchmarks.service import CommandLine
from zk0.config import RunConfig, resolve_path
from zk0.errors import ClientError
from zk0.executors.process import ProcessExecutor
from zk0.runs.records import RoundState
from zk0.runs.store import RunStore
from zk0.work.lock import lock_path

pytestmark = pytest.mark.slow


@pytest.fixture
def mortal(tmp_path: Path) -> Path:
    """A whole dataset that a test may ruin."""
    return Path(shutil.copytree(resolve_path("asset:datasets/workshop"), tmp_path / "mortal"))


@pytest.fixture
def broken(mortal: Path) -> Path:
    """A dataset whose metadata and rows are right and whose videos are not."""
    ruin(mortal)
    return mortal


def ruin(dataset: Path) -> None:
    """Make a dataset's videos unreadable."""
    for video in (dataset / "videos").rglob("*.mp4"):
        video.write_bytes(b"\0" * video.stat().st_size)


@pytest.fixture
def not_a_number(tmp_path: Path) -> Path:
    """A dataset with a NaN in every action."""
    target = tmp_path / "nan"
    shutil.copytree(resolve_path("asset:datasets/kitchen"), target)
    for path in (target / "data").rglob("*.parquet"):
        table = pq.read_table(path)
        index = table.column_names.index("action")
        actions = np.stack(table["action"].to_numpy())
        actions[:, 0] = np.nan
        column = pa.array(list(actions), type=table.schema.field("action").type)
        pq.write_table(table.set_column(index, table.schema.field("action"), column), path)
    return target


def prepared(config: RunConfig) -> tuple[RunStore, ProcessExecutor, RoundState]:
    store = RunStore.create_or_open(config, "failing")
    executor = ProcessExecutor(config.executor)
    initial = executor.run(store.task("init", 0, "server"))
    assert initial.tensors is not None
    return store, executor, RoundState(server_round=0, arrays=initial.tensors)


def test_a_fit_that_takes_too_long_is_ended(small_config: Callable[..., RunConfig]) -> None:
    store, _, state = prepared(small_config(training__steps=1000))
    hasty = ProcessExecutor(small_config(executor__timeout_s=8).executor)
    task = store.task("train", 1, "kitchen", state)
    with pytest.raises(ClientError, match=r"longer than executor.timeout_s = 8 s") as caught:
        hasty.run(task)
    assert caught.value.cause == "timeout"
    assert caught.value.retriable
    assert not psutil.pid_exists(int(lock_path(task).read_text()))


def test_data_that_cannot_teach_is_not_tried_again(small_config: Callable[..., RunConfig], not_a_number: Path) -> None:
    clients = [{"name": "nan", "repo_id": "zk0/nan", "root": str(not_a_number)}]
    config = small_config(clients=clients, federation__min_train_clients=1)
    store, executor, state = prepared(config)
    with pytest.raises(ClientError, match="'nan': the loss is nan at step 1") as caught:
        executor.run(store.task("train", 1, "nan", state))
    assert caught.value.cause == "bad_data"
    assert not caught.value.retriable


def test_an_unforeseen_error_is_told_in_its_own_words(small_config: Callable[..., RunConfig], broken: Path) -> None:
    clients = [{"name": "broken", "repo_id": "zk0/broken", "root": str(broken)}]
    store, executor, state = prepared(small_config(clients=clients, federation__min_train_clients=1))
    task = store.task("train", 1, "broken", state)
    with pytest.raises(
        ClientError, match=r"train of 'broken': \w+Error: .*called at zk0/learning.*see .*client.log"
    ) as caught:
        executor.run(task)
    assert caught.value.cause == "error"
    assert "Traceback" in (task.folder / "client.log").read_text()


def run_and_ruin(zk0: CommandLine, config: Path, name: str, mortal: Path) -> tuple[int, str]:
    """A run whose second client loses its videos after round 0, past the checks before a run; exit code and output."""
    committed = zk0.outputs / name / "rounds" / "0000" / "manifest.json"
    arguments = ("run", config, "--name", name, "--set", f"clients.1.root={mortal}")
    started = zk0.start_until(committed.is_file, *arguments)
    ruin(mortal)
    output, _ = started.communicate(timeout=300)
    return started.returncode, output


@pytest.mark.exhaustive
def test_a_client_sits_out_while_the_quorum_holds(zk0: CommandLine, mortal: Path) -> None:
    config = zk0.config(federation__num_rounds=1, federation__min_train_clients=1, executor__max_retries=1)
    code, output = run_and_ruin(zk0, config, "sits-out", mortal)
    assert code == 3, output
    words = "workshop gave no update in the round that it was sampled for: nothing was learned from it"
    said = " ".join(output.split())
    assert said.count(words) == 3, "the log, the table and the error say it"
    assert "round 0 (the base) -> round 1" in said
    assert 'may_miss=["workshop"]\'' in said
    assert (zk0.outputs / "sits-out" / "final" / "adapter_model.safetensors").is_file()
    assert zk0_run.open_run(zk0.outputs / "sits-out").absent == ["workshop"]
    status = json.loads(zk0.run("status", "sits-out", "--json"))
    assert [(item["client"], item["sampled"]) for item in status["absent"]] == [("workshop", 1)]
    assert status["state"] == "finished"
    allowed = ("--set", f"clients.1.root={mortal}", "--set", 'federation.may_miss=["workshop"]')
    zk0.run("run", config, "--name", "sits-out", *allowed)
    last = zk0.metrics("sits-out")[-1]
    assert set(last["train"]) == {"kitchen"}
    assert {(failure["client"], failure["kind"]) for failure in last["failures"]} == {
        ("workshop", "train"),
        ("workshop", "evaluate"),
    }
    log = (zk0.outputs / "sits-out" / "run.log").read_text()
    assert log.count("train failed (error)") == 1, "a video that cannot be decoded is not tried again"


@pytest.mark.exhaustive
def test_without_a_quorum_the_run_stops_and_says_why(zk0: CommandLine, mortal: Path) -> None:
    config = zk0.config(federation__num_rounds=1, executor__max_retries=0)
    code, output = run_and_ruin(zk0, config, "no-quorum", mortal)
    assert code == 3, output
    assert "1 of 2 clients gave an update and federation.min_train_clients is 2" in " ".join(output.split())
    assert "workshop" in output
    assert [line["server_round"] for line in zk0.metrics("no-quorum")] == [0], "the old weights were committed again"


def test_two_orchestrators_that_start_the_same_work_at_once_get_one_result(
    small_config: Callable[..., RunConfig],
) -> None:
    """Neither sees a lock yet when it looks: the second worker steps back, or finds the work done."""
    store, executor, state = prepared(small_config())
    task = store.task("train", 1, "kitchen", state)
    with ThreadPoolExecutor(3) as threads:
        results = [future.result() for future in [threads.submit(executor.run, task) for _ in range(3)]]
    assert len({result.pid for result in results}) == 1
    log = (task.folder / "client.log").read_text()
    assert log.count("train starts in round 1") == 1
