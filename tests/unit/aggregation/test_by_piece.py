"""Piece by piece gives what all at once give, to the bit: new tensors, metrics and state."""

import copy
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message
from flwr.serverapp.strategy import (
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    Strategy,
)
from numpy.typing import NDArray

from zk0.aggregation import by_piece
from zk0.aggregation.by_piece import Piece
from zk0.aggregation.flower import NodeGrid, ensure_task_identity
from zk0.aggregation.replies import replies
from zk0.aggregation.state import load_strategy_state, strategy_state

Tensors = dict[str, NDArray[Any]]
CLIENTS = ("a", "b", "c", "d", "e")
COMMON: dict[str, Any] = {"min_train_nodes": 5, "min_available_nodes": 5}
STRATEGIES: dict[str, Strategy] = {
    "fedavg": FedAvg(**COMMON),
    "fedprox": FedProx(proximal_mu=0.1, **COMMON),
    "fedavgm": FedAvgM(server_momentum=0.9, server_learning_rate=0.7, **COMMON),
    "fedavgm, off": FedAvgM(**COMMON),
    "fedadam": FedAdam(**COMMON),
    "fedyogi": FedYogi(**COMMON),
    "fedtrimmedavg": FedTrimmedAvg(**COMMON),
    "fedmedian": FedMedian(**COMMON),
}


def tensors(seed: int) -> Tensors:
    rng = np.random.default_rng(seed)
    return {
        "a.weight": rng.standard_normal((7, 3)).astype(np.float32),
        "b.bias": rng.standard_normal(3).astype(np.float32),
        "c.scalar": np.array(rng.standard_normal(), np.float32),
        "d.count": rng.integers(0, 9, 4),
        "e.half": rng.standard_normal(5).astype(np.float16),
    }


def record(values: Tensors) -> ArrayRecord:
    return ArrayRecord({name: Array(value) for name, value in values.items()})


def started(strategy: Strategy, state: Any, before: ArrayRecord) -> tuple[Strategy, dict[str, Message]]:
    ensure_task_identity()
    fresh = copy.copy(strategy)
    load_strategy_state(fresh, *state)
    asked = list(fresh.configure_train(1, before, ConfigRecord(), NodeGrid(5)))
    asked.sort(key=lambda message: message.metadata.dst_node_id)
    return fresh, dict(zip(CLIENTS, asked, strict=True))


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_same_to_the_bit_in_three_rounds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_piece, "PIECE_BYTES", 30)  # two rows of the matrix
    strategy, before = STRATEGIES[name], tensors(0)
    state: tuple[Tensors, dict[str, Any]] = ({}, {})
    metrics = {client: {"num-examples": 10.0 * (1 + n), "loss": 0.3 * n} for n, client in enumerate(CLIENTS)}
    for number in (1, 2, 3):
        updates = {client: tensors(10 * number + n) for n, client in enumerate(CLIENTS)}
        whole, asked = started(strategy, state, record(before))
        sent = {client: record(update) for client, update in updates.items()}
        expected, mean = whole.aggregate_train(number, replies(asked, sent, metrics, {}))
        assert expected is not None

        def given(piece: Piece, asked: Any = asked, updates: Any = updates) -> list[Message]:
            own = {client: by_piece.part(record(update), piece) for client, update in updates.items()}
            return replies(asked, own, metrics, {})

        made = by_piece.aggregate(strategy, number, given, record(before), state, lambda new, _: new)
        assert list(made.record) == list(expected)
        for key, array in expected.items():
            same(made.record[key], array.numpy())
        assert made.metrics == mean
        wanted = strategy_state(whole)
        assert made.scalars == wanted[1]
        assert made.tensors.keys() == wanted[0].keys()
        for key, value in wanted[0].items():
            same(made.tensors[key], value)
        before, state = made.record, (made.tensors, made.scalars)


def same(one: NDArray[Any], other: NDArray[Any]) -> None:
    assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


def test_only_what_looks_at_one_number_at_a_time() -> None:
    class Clever(FedAvg):
        """May look at more."""

    assert all(by_piece.elementwise(strategy) for strategy in STRATEGIES.values())
    assert not any(by_piece.elementwise(strategy) for strategy in (Krum(**COMMON), Clever(**COMMON)))
