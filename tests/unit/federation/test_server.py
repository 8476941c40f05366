"""The server's side of a round in the run directory: what admission remembers, quarantine, statistics."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from zk0.config import RunConfig
from zk0.errors import DivergedError, QuarantineError, QuorumError
from zk0.federation import server
from zk0.federation.guard import run_guarded
from zk0.federation.outcomes import Outcomes
from zk0.layout import STRATEGY_SCALARS
from zk0.report.charts import draw_charts, plain_words
from zk0.report.joints import MOST_JOINTS, draw_joint_charts
from zk0.runs import counted
from zk0.runs.records import RoundState
from zk0.runs.store import RunStore
from zk0.work import quarantine
from zk0.work.records import ClientFailure, ClientResult
from zk0.work.results import write_result

CLIENTS = [{"name": name, "repo_id": f"lab/{name}"} for name in ("kitchen", "workshop", "greenhouse")]


@pytest.fixture
def store(small_config: Callable[..., RunConfig]) -> RunStore:
    return RunStore.create_or_open(small_config(clients=CLIENTS, peft={"enabled": False}), "run")


def begin(store: RunStore) -> RoundState:
    return store.commit(0, arrays={"w": np.zeros(8, np.float32)}, strategy_tensors={}, strategy_scalars={}, metrics={})


def fit(store: RunStore, number: int, state: RoundState, client: str, size: float) -> ClientResult:
    rng = np.random.default_rng([number, len(client)])
    return write_result(
        store.task("train", number, client, state),
        tensors={"w": (size * rng.uniform(0.9, 1.1, 8)).astype(np.float32)},
        num_examples=50,
        metrics={"loss": 0.5},
        duration_s=1.0,
        peak_rss_bytes=1,
    )


def one_round(store: RunStore, number: int, before: RoundState, sizes: dict[str, float]) -> RoundState:
    fits = Outcomes([fit(store, number, before, client, size) for client, size in sizes.items()])
    made = server.aggregate(store, number, before, fits)
    tensors, scalars = store.load_strategy_state(number)
    return store.commit(
        number, arrays=made.arrays, strategy_tensors=tensors, strategy_scalars=scalars, metrics={}, results=fits.results
    )


BAD = {"kitchen": 1.0, "workshop": 1.1, "greenhouse": 1e6}


def test_who_is_refused_three_times_running_sits_out_until_that_is_lifted(store: RunStore) -> None:
    state = begin(store)
    for number in (1, 2):
        state = one_round(store, number, state, BAD)
        assert quarantine.read(store.folder, "greenhouse") is None
    before = state
    state = one_round(store, 3, state, BAD)
    found = quarantine.read(store.folder, "greenhouse")
    assert found is not None
    assert (found.server_round, len(found.reasons)) == (3, 3)
    assert "times the usual" in found.reasons[0]
    assert [quarantine.read(store.folder, name) for name in ("kitchen", "workshop")] == [None, None]

    def run(_: object) -> ClientResult:
        pytest.fail("a fit was run")

    with pytest.raises(QuarantineError, match="refused in 3 rounds running"):
        run_guarded(run, store.task("train", 4, "greenhouse", state), store.config)
    again = server.aggregate(store, 3, before, Outcomes([fit(store, 3, before, *item) for item in BAD.items()]))
    assert again.arrays == state.arrays, "a round that is made again gives the same"
    quarantine.path_of(store.folder, "greenhouse").unlink()
    state = one_round(store, 4, state, {**BAD, "greenhouse": 1.0})
    assert store.load_strategy_state(4)[1]["admission"]["refused"] == {}


def test_a_resumed_run_decides_as_one_that_was_not(store: RunStore, small_config: Callable[..., RunConfig]) -> None:
    """What admission goes on from is in strategy.json of the committed round, whatever else is lost."""
    state = begin(store)
    for number in (1, 2):
        state = one_round(store, number, state, {"kitchen": 1.0, "workshop": 1.0})
    (store.folder / "metrics.jsonl").unlink()
    other = RunStore.open(store.folder)
    kept = json.loads((other.round_folder(2) / STRATEGY_SCALARS).read_text())["admission"]
    assert [len(norms) for norms in kept["norms"]] == [2, 2]
    with pytest.raises(QuorumError, match=r"kitchen: bad_data, .* times the usual"):
        one_round(other, 3, state, {"kitchen": 100.0, "workshop": 1.0})


def test_counts_are_held_against_what_was_counted(store: RunStore) -> None:
    state = begin(store)
    counted.keep(store.folder, {"kitchen": 50, "workshop": 51, "greenhouse": 50})
    counted.keep(store.folder, {"kitchen": 7})
    assert counted.read(store.folder)["kitchen"] == 50, "what is there stays"
    fits = Outcomes([fit(store, 1, state, client["name"], 1.0) for client in CLIENTS])
    made = server.aggregate(store, 1, state, fits)
    assert [failure.client for failure in made.failures] == ["workshop"]
    assert "num_examples = 50, and 51 were counted before the run" in made.failures[0].message


def test_nothing_is_committed_that_is_not_finite(small_config: Callable[..., RunConfig]) -> None:
    config = small_config(
        clients=CLIENTS, peft={"enabled": False}, federation__strategy="fedadam", federation__eta=1e300
    )
    store = RunStore.create_or_open(config, "diverging")
    state = begin(store)
    with np.errstate(all="ignore"), pytest.raises(DivergedError, match="nothing is committed"):
        one_round(store, 1, state, {"kitchen": 1.0, "workshop": 1.0, "greenhouse": 1.0})
    assert store.committed_rounds() == [0]
    assert RunStore.open(store.folder).resume_point() == state


def statistics(store: RunStore, client: str, factor: float = 1.0) -> ClientResult:
    values = {"mean": np.zeros(2), "std": np.ones(2), "min": -3.0 * np.ones(2), "max": factor * 3.0 * np.ones(2)}
    return write_result(
        store.task("statistics", 0, client),
        tensors={**{f"action/{name}": value for name, value in values.items()}, "action/count": np.array([50])},
        num_examples=50,
        metrics={},
        duration_s=1.0,
        peak_rss_bytes=1,
    )


@pytest.mark.slow
def test_statistics_that_cannot_be_cost_their_client_alone(store: RunStore, told: list[str]) -> None:
    honest = [statistics(store, client["name"]) for client in CLIENTS[:2]]
    made = server.aggregate_statistics(store, Outcomes([*honest, statistics(store, "greenhouse", 1e6)]))
    (failure,) = made.failures
    assert (failure.client, failure.kind, failure.cause) == ("greenhouse", "statistics", "bad_data")
    assert any("statistics of greenhouse refused: action goes to 3e+06" in line for line in told)
    assert made.stats == server.aggregate_statistics(store, Outcomes(honest)).stats


def test_too_few_statistics_are_a_lost_quorum(store: RunStore) -> None:
    odd = statistics(store, "kitchen", float("nan"))
    with pytest.raises(QuorumError, match="0 of 1 clients gave statistics"):
        server.aggregate_statistics(store, Outcomes([odd]))
    lost = ClientFailure(client="workshop", server_round=0, kind="statistics", cause="bad_data", message="it lies")
    none = statistics(store, "greenhouse").model_copy(update={"tensors": None})
    with pytest.raises(QuorumError, match=r"1 of 3 clients .* greenhouse: there are no statistics; workshop: it lies"):
        server.aggregate_statistics(store, Outcomes([statistics(store, "kitchen"), none], [lost]))


def test_names_that_look_like_formulas_are_drawn_as_they_are(tmp_path: Path) -> None:
    """A `$\\frac{$` would end matplotlib's parser, and with it the chart."""
    rounds = [{"server_round": 0, "train": {"$\\frac{$": {"loss": 1e30}, "b": {"loss": -1e30}}}]
    with plain_words():
        assert set(draw_charts(tmp_path, rounds)) == {"training-loss"}


def test_of_many_joints_some_are_drawn(store: RunStore, told: list[str]) -> None:
    state = begin(store)
    task = store.task("evaluate", 0, "kitchen", state)
    values = np.full((30, 100), np.inf, np.float32)
    write_result(
        task,
        tensors={"recorded": values, "predicted": -values},
        num_examples=1,
        metrics={},
        duration_s=1.0,
        peak_rss_bytes=1,
    )
    rounds = [{"server_round": 0, "evaluate": {"kitchen": {"joints": [f"j{n}" for n in range(100)]}}}]
    with plain_words():
        assert set(draw_joint_charts(store.folder, rounds, ["kitchen"])) == {"joints-kitchen"}
    assert any(f"{MOST_JOINTS} of its 100 joints are drawn" in line for line in told)
