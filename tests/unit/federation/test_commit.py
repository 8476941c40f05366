"""training.optimizer_state = "keep": what a client's optimizer knew, carried in the run directory from fit to fit."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.service import small_run
from zk0.config import validate_config
from zk0.executors.docker import visible
from zk0.federation import commit as federation
from zk0.federation.outcomes import Outcomes
from zk0.federation.server import Aggregated
from zk0.files import atomic
from zk0.runs.records import RoundState
from zk0.runs.store import RunStore
from zk0.work.records import ClientFailure, ClientResult
from zk0.work.results import find_finished, write_result

KITCHEN, WORKSHOP = "kitchen", "workshop"


def make_store(tmp_path: Path, optimizer_state: str = "keep") -> RunStore:
    changes = {"training__optimizer_state": optimizer_state, "checkpoint__keep": 2}
    config = validate_config(small_run(tmp_path / "outputs", **changes))
    return RunStore.create_or_open(config, "run")


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return make_store(tmp_path)


def fit(store: RunStore, server_round: int, client: str, state: RoundState) -> ClientResult:
    """A finished fit; its optimizer's state names the round and the client."""
    mark = float(10 * server_round + (KITCHEN, WORKSHOP).index(client))
    return write_result(
        store.task("train", server_round, client, state),
        tensors={"w": np.full(2, mark, np.float32)},
        optimizer={"0.exp_avg": np.full(2, mark, np.float32)},
        num_examples=5,
        metrics={"loss": 0.5},
        duration_s=1.0,
        peak_rss_bytes=1,
    )


def commit(
    store: RunStore, server_round: int, results: list[ClientResult], failures: tuple[ClientFailure, ...] = ()
) -> RoundState:
    """What is done at the end of a round, pruning included."""
    arrays = store.place(server_round, "global", {"w": np.full(2, server_round, np.float32)})
    store.save_strategy_state(server_round, {}, {})
    aggregated = Aggregated(arrays=arrays, metrics={}, failures=failures)
    before = store.resume_point() if server_round else None
    after = RoundState(server_round=server_round, arrays=arrays)
    return federation.commit(store, before, after, aggregated, Outcomes(results), 0.0)


def marks(store: RunStore, state: RoundState) -> dict[str, float]:
    found = {client: atomic.read_tensors(store.path(ref))["0.exp_avg"][0] for client, ref in state.optimizers.items()}
    assert all(ref.path.startswith(f"rounds/{state.server_round:04d}/") for ref in state.optimizers.values())
    return {client: float(mark) for client, mark in found.items()}


def rounds(store: RunStore) -> RoundState:
    """Round 1 with both clients, 2 with the kitchen alone."""
    zero = commit(store, 0, [])
    first = commit(store, 1, [fit(store, 1, client, zero) for client in (KITCHEN, WORKSHOP)])
    assert marks(store, first) == {KITCHEN: 10, WORKSHOP: 11}
    return commit(store, 2, [fit(store, 2, KITCHEN, first)])


def test_a_client_that_sat_out_goes_on_from_its_last_fit_however_old(store: RunStore) -> None:
    state = rounds(store)
    for server_round in (3, 4):
        state = commit(store, server_round, [fit(store, server_round, KITCHEN, state)])
    assert store.committed_rounds() == [0, 3, 4]
    assert marks(store, state) == {KITCHEN: 40, WORKSHOP: 11}
    assert store.resume_point() == state
    assert store.task("train", 5, WORKSHOP, state).optimizer == state.optimizers[WORKSHOP]
    assert store.task("evaluate", 5, WORKSHOP, state).optimizer is None


def test_an_update_that_was_refused_leaves_nothing(store: RunStore) -> None:
    state = rounds(store)
    refused = ClientFailure(client=KITCHEN, server_round=3, kind="train", cause="bad_data", message="not finite")
    results = [fit(store, 3, client, state) for client in (KITCHEN, WORKSHOP)]
    assert marks(store, commit(store, 3, results, (refused,))) == {KITCHEN: 20, WORKSHOP: 31}
    assert find_finished(store.task("train", 3, KITCHEN, state)) is not None, "was not touched"


def test_what_a_fit_goes_on_from_is_part_of_its_identity(store: RunStore) -> None:
    state = rounds(store)
    task = store.task("train", 3, KITCHEN, state)
    fresh = task.model_copy(update={"optimizer": None})
    other = task.model_copy(update={"optimizer": state.optimizers[WORKSHOP]})
    assert len({task.key, fresh.key, other.key}) == 3
    bound = {bind.target: bind.writable for bind in visible.binds(task, store.config)}
    assert bound[str(store.path(state.optimizers[KITCHEN]))] is False
    assert str(store.path(state.optimizers[WORKSHOP])) not in bound


@pytest.mark.parametrize("client", [KITCHEN, WORKSHOP])
def test_a_damaged_state_damages_its_round_alone(store: RunStore, client: str) -> None:
    """The kitchen's lies where its fit left it, the workshop's is a copy."""
    state = rounds(store)
    path = store.path(state.optimizers[client])
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    again = store.resume_point()
    assert again is not None
    assert again.server_round == 1
    assert marks(store, again) == {KITCHEN: 10, WORKSHOP: 11}


def test_a_finished_fit_whose_state_is_damaged_is_done_again(store: RunStore) -> None:
    zero = commit(store, 0, [])
    result = fit(store, 1, KITCHEN, zero)
    task = store.task("train", 1, KITCHEN, zero)
    assert find_finished(task) == result
    assert result.optimizer is not None
    store.path(result.optimizer).write_bytes(b"")
    assert find_finished(task) is None


def test_fresh_carries_nothing(tmp_path: Path) -> None:
    store = make_store(tmp_path, "fresh")
    assert commit(store, 1, [fit(store, 1, KITCHEN, commit(store, 0, []))]).optimizers == {}
