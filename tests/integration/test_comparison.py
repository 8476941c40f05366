"""A finished run beside its clients alone and all data pooled."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from zk0 import atomic, client_app
from zk0.aggregation import ServerRound
from zk0.comparison import ArmResult, compare
from zk0.config import RunConfig
from zk0.errors import RunNameError
from zk0.records import ClientResult, ClientTask, RoundState
from zk0.report.comparison import comparison_table, write_comparison
from zk0.results import find_finished
from zk0.run_store import RunStore

MakeConfig = Callable[..., RunConfig]


class HereExecutor:
    """Does the work in this process, which has the imports done; remembers what it did."""

    def __init__(self) -> None:
        self.did: list[tuple[str, int, str]] = []

    def run(self, task: ClientTask) -> ClientResult:
        if (found := find_finished(task)) is not None:
            return found
        self.did.append((task.kind, task.server_round, task.client))
        return client_app.run_task(task)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)


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
        evaluations = {
            client.name: executor.run(store.task("evaluate", number, client.name, state)).metrics
            for client in config.clients
        }
        store.commit(
            number, arrays=state.arrays, strategy_tensors={}, strategy_scalars={}, metrics={"evaluate": evaluations}
        )
    (store.folder / "final").mkdir()
    return store


def test_an_interval_by_students_t() -> None:
    arm = ArmResult("base", {"a": 1.0, "b": 2.0, "c": 4.0, "d": 5.0})
    assert arm.mean("abcd") == 3.0
    assert arm.interval("abcd") == pytest.approx((3 - 2.905261, 3 + 2.905261), abs=1e-4)  # t = 3.182446, s = 1.825742
    assert arm.interval("a") == (float("-inf"), float("inf"))
    assert ArmResult("base", {"a": 1.0, "b": 1.0}).interval("ab") == (1.0, 1.0)


@pytest.mark.slow
def test_alone_pooled_base_and_federated(small_config: MakeConfig) -> None:
    config = small_config()
    executor = HereExecutor()
    store = finished_run(config, "run", executor)
    names = [client.name for client in config.clients]

    executor.did.clear()
    found = compare(store, executor)
    assert [arm.name for arm in found.arms] == [
        "base", *(f"{name} alone" for name in names), "mean of the clients alone", "federated", "pooled",
    ]  # fmt: skip
    trained = [(number, client) for kind, number, client in executor.did if kind == "train"]
    assert trained == [(number, client) for client in [*names, "_pooled"] for number in (1, 2)]

    # Alone is what a federation of that client would have made, to the last bit.
    lone = finished_run(config.model_copy(update={
        "clients": config.clients[:1],
        "federation": config.federation.model_copy(update={"min_train_clients": 1}),
    }), "lone", executor)  # fmt: skip
    ours, theirs = (
        atomic.read_tensors(folder / "rounds" / "0002" / "global.safetensors")
        for folder in (store.folder / "compare" / f"alone-{names[0]}", lone.folder)
    )
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    expected = lone.read_metrics()[-1]["evaluate"][names[0]]["action_error_deg"]
    assert found.arms[1].errors[names[0]] == expected

    # Pooled makes the steps of both, on the frames of both.
    def fit(folder, client: str) -> Any:
        return json.loads((folder / "rounds" / "0001" / "clients" / client / "train.json").read_text())

    pooled = fit(store.folder / "compare" / "pooled", "_pooled")
    clients = [fit(store.folder, name) for name in names]
    assert pooled["metrics"]["steps"] == sum(client["metrics"]["steps"] for client in clients) == 4
    assert pooled["num_examples"] == sum(client["num_examples"] for client in clients)

    executor.did.clear()
    assert compare(store, executor) == found
    assert executor.did == []

    console = Console(width=160, record=True)
    console.print(comparison_table(found))
    assert f"{found.arms[-2].mean(names):.2f}" in console.export_text()
    chart = write_comparison(found, store.folder)
    assert chart.read_bytes().startswith(b"\x89PNG")
    written = json.loads((store.folder / "compare" / "comparison.json").read_text())
    assert written["arms"][-1]["errors"] == found.arms[-1].errors


def test_an_unfinished_run_is_refused(small_config: MakeConfig) -> None:
    store = RunStore.create_or_open(small_config(), "young")
    with pytest.raises(RunNameError, match="'young' is not finished; go on with it first: zk0 resume young"):
        compare(store, HereExecutor())
