"""A finished run beside its clients alone and all data pooled."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from zk0.aggregation.server_round import ServerRound
from zk0.client.run import run_task
from zk0.config import ExecutorConfig, RunConfig
from zk0.errors import RunNameError
from zk0.executors.process import ProcessExecutor
from zk0.federation.comparison import compare
from zk0.files import atomic
from zk0.metrics.arms import ArmResult
from zk0.report.comparison import comparison_table, write_comparison
from zk0.report.text import significant
from zk0.runs.records import RoundState
from zk0.runs.store import RunStore
from zk0.work.records import ClientResult, ClientTask
from zk0.work.results import find_finished

MakeConfig = Callable[..., RunConfig]


class HereExecutor(ProcessExecutor):
    """Does the work in this process, which has the imports done; remembers what it did."""

    def __init__(self) -> None:
        super().__init__(ExecutorConfig())
        self.did: list[tuple[str, int, str]] = []

    def run(self, task: ClientTask) -> ClientResult:
        if (found := find_finished(task)) is not None:
            return found
        self.did.append((task.kind, task.server_round, task.client))
        return run_task(task)

    def call[**P, R](self, function: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
        return function(*arguments, **named)


def finished_run(config: RunConfig, name: str, executor: HereExecutor) -> RunStore:
    """A run without Prefect: the same work, one after the other."""
    store = RunStore.create_or_open(config, name)
    initial = executor.run(store.task("init", 0, "server"))
    state = RoundState(server_round=0, arrays=initial.tensors)
    for number in range(config.federation.num_rounds + 1):
        if number:
            fits = [executor.run(store.task("train", number, client.name, state)) for client in config.clients]
            tensors = ServerRound(config, number, store.path(state.arrays)).aggregate(fits, store.folder).tensors
            state = RoundState(server_round=number, arrays=store.place(number, "global", tensors))
        commit(store, state, {client.name: executor.run(store.task("evaluate", number, client.name, state)).metrics
                              for client in config.clients})  # fmt: skip
    (store.folder / "final").mkdir()
    return store


def commit(store: RunStore, state: RoundState, evaluations: dict[str, Any]) -> None:
    metrics = {"evaluate": evaluations}
    store.commit(state.server_round, arrays=state.arrays, strategy_tensors={}, strategy_scalars={}, metrics=metrics)


def evaluated(*errors: float, steps: int = 10) -> dict[str, Any]:
    """An evaluation of so many episodes, all of one length."""
    episodes = {"steps": [steps] * len(errors), "action_error_deg": list(errors)}
    return {"action_error_deg": sum(errors) / len(errors), "episodes": episodes}


def test_intervals_are_by_episodes_and_differences_are_paired() -> None:
    """What makes an episode hard is the same for both: the difference is sure where the errors' intervals overlap."""
    base = ArmResult("base", {"a": evaluated(1, 5, 9), "b": evaluated(2, 6, 10)})
    better = ArmResult("federated", {"a": evaluated(0.5, 4.4, 8.5), "b": evaluated(1.4, 5.5, 9.4)})
    assert base.mean("ab") == 5.5
    low, high = base.interval("ab", seed=1) or (0, 0)
    assert 1.5 < low < better.mean("ab") < 5.5 < high < 9.5
    beside = base.beside(better, "ab", seed=1)
    assert beside is not None
    assert beside["mean"] == pytest.approx(0.55)
    assert 0.5 <= beside["interval_95"][0] < beside["interval_95"][1] <= 0.6
    one = ArmResult("base", {"a": evaluated(1)})
    assert one.interval("a", seed=1) is None


ARMS = ["base", "kitchen alone", "workshop alone", "mean of the clients alone", "federated", "pooled"]


@pytest.mark.slow
def test_alone_and_pooled_are_trained_once_and_shown_beside_the_run(small_config: MakeConfig) -> None:
    config, executor = small_config(federation__num_rounds=1), HereExecutor()
    names = [client.name for client in config.clients]
    store = RunStore.create_or_open(config, "run")
    first = executor.run(store.task("init", 0, "server")).tensors
    for number, error in ((0, 9.0), (1, 3.0)):  # only what it says of itself is asked of the run
        state = RoundState(server_round=number, arrays=store.place(number, "global", first))
        commit(store, state, {name: evaluated(error + index) for index, name in enumerate(names)})
    (store.folder / "final").mkdir()

    executor.did.clear()
    found = compare(store, executor)
    assert [arm.name for arm in found.arms] == ARMS
    errors = {arm.name: arm.errors for arm in found.arms}
    assert errors["base"] == dict(zip(names, (9.0, 10.0), strict=True))
    assert errors["federated"] == dict(zip(names, (3.0, 4.0), strict=True))
    both = [errors["kitchen alone"]["workshop"], errors["workshop alone"]["workshop"]]
    assert errors["mean of the clients alone"]["workshop"] == pytest.approx(sum(both) / 2)
    assert both[0] != both[1]
    assert [client for kind, _, client in executor.did if kind == "train"] == [*names, "_pooled"]

    # Pooled makes the steps of both clients of a round.
    train = store.folder / "compare" / "pooled" / "rounds" / "0001" / "clients" / "_pooled" / "train.json"
    assert json.loads(train.read_text())["metrics"]["steps"] == 2 * config.training.steps

    executor.did.clear()
    assert compare(store, executor) == found
    assert executor.did == []

    console = Console(width=160, record=True)
    console.print(comparison_table(found))
    shown, pooled = console.export_text(), found.arms[-1]
    low, high = pooled.interval(names, found.seed) or (0, 0)
    mean, *bounds = (significant(value) for value in (pooled.mean(names), low, high))
    assert f"{mean} [{bounds[0]}, {bounds[1]}]" in shown
    assert low < pooled.mean(names) < high
    assert write_comparison(found, store.folder).read_bytes().startswith(b"\x89PNG")
    written = json.loads((store.folder / "compare" / "comparison.json").read_text())
    assert written["arms"][-1]["errors"] == pooled.errors
    assert written["arms"][-1]["interval_95"] == [low, high]


@pytest.mark.slow
@pytest.mark.exhaustive
def test_alone_is_a_federation_of_one_and_pooled_has_all_frames(small_config: MakeConfig) -> None:
    config, executor = small_config(), HereExecutor()
    store = finished_run(config, "run", executor)
    names = [client.name for client in config.clients]
    found = compare(store, executor)
    last = store.read_metrics()[-1]["evaluate"]
    assert found.arms[-2].errors == {name: last[name]["action_error_deg"] for name in names}

    one = {"clients": config.clients[:1], "federation": config.federation.model_copy(update={"min_train_clients": 1})}
    lone = finished_run(config.model_copy(update=one), "lone", executor)
    folders = (store.folder / "compare" / f"alone-{names[0]}", lone.folder)
    ours, theirs = (atomic.read_tensors(folder / "rounds" / "0002" / "global.safetensors") for folder in folders)
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)  # to the last bit
    assert found.arms[1].errors[names[0]] == lone.read_metrics()[-1]["evaluate"][names[0]]["action_error_deg"]

    def frames(folder: Path, client: str) -> int:
        return json.loads((folder / "rounds" / "0001" / "clients" / client / "train.json").read_text())["num_examples"]

    pooled = frames(store.folder / "compare" / "pooled", "_pooled")
    assert pooled == sum(frames(store.folder, name) for name in names)


def test_an_unfinished_run_is_refused(small_config: MakeConfig) -> None:
    store = RunStore.create_or_open(small_config(), "young")
    with pytest.raises(RunNameError, match="'young' is not finished; go on with it first: zk0 resume young"):
        compare(store, HereExecutor())
