"""What no gradient made travels beside the parameters: averaged whatever the strategy, and never by its steps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.aggregation.made import NAMES, Tensors, make_config, result
from zk0.aggregation.carried import MARK, combined, unsent
from zk0.aggregation.server_round import Aggregate, ServerRound
from zk0.config import RunConfig
from zk0.errors import QuorumError
from zk0.files import atomic

VARIANCE, COUNT, OVER, MASK = (f"{MARK}{name}" for name in ("bn.running_var", "bn.num_batches", "over", "mask"))


def start() -> Tensors:
    """A policy with batch normalisation, a flag and a mask; its variance is near zero, its counter beyond float32."""
    return {
        "weight": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
        VARIANCE: np.full(4, 0.05, np.float32),
        COUNT: np.array(2**53 + 1, np.int64),
        OVER: np.array(False),
        MASK: np.array([0.1, 0.7], np.float32),
    }


def update(index: int) -> Tensors:
    """Of client number `index`: its variance sinks."""
    new = start()
    new["weight"] = new["weight"] + np.float32(0.01 * (index + 1))
    new[VARIANCE] = np.full(4, 0.01 / (index + 1), np.float32)
    new[COUNT] = new[COUNT] + 20
    new[OVER] = np.array(index != 1)
    return new


def one_round(config: RunConfig, folder: Path, updates: dict[str, Tensors], before: Aggregate | None = None) -> Any:
    atomic.write_tensors(folder / "global.safetensors", start())
    results = [
        result(folder, client, own, num_examples=100 * (place + 1))
        for place, (client, own) in enumerate(updates.items())
    ]
    state = () if before is None else (before.strategy_tensors, before.strategy_scalars, before.history.record())
    return ServerRound(config, 1, folder / "global.safetensors", *state).aggregate(results, folder)


def everybody(clients: int) -> dict[str, Tensors]:
    return {name: update(index) for index, name in enumerate(NAMES[:clients])}


@pytest.mark.parametrize(
    ("strategy", "more"),
    [
        ("fedavg", {}),
        ("fedprox", {"proximal_mu": 0.1}),
        ("fedavgm", {"server_momentum": 0.9, "server_learning_rate": 8.0}),
        ("fedadam", {"eta": 1.0}),
        ("fedyogi", {"eta": 1.0}),
        ("flwr.serverapp.strategy:FedAdagrad", {"strategy_options": {"eta": 1.0}}),
    ],
)
def test_whatever_a_strategy_does_with_weights_states_are_averaged(
    tmp_path: Path, strategy: str, more: dict[str, Any]
) -> None:
    """In the second round, too, where a momentum would be felt."""
    config = make_config(3, strategy=strategy, min_train_clients=3, **more)
    first = one_round(config, tmp_path, everybody(3))
    for found in (first, one_round(config, tmp_path, everybody(3), first)):
        mean = np.float64(1 / 6 * np.float32(0.01) + 2 / 6 * np.float32(0.005) + 3 / 6 * np.float32(0.01 / 3))
        np.testing.assert_array_equal(found.tensors[VARIANCE], np.full(4, mean).astype(np.float32))
        assert int(found.tensors[COUNT]) == 2**53 + 21, "no float has counted"
        assert found.tensors[OVER].dtype == bool
        assert found.tensors[OVER], "two of three say so"
        np.testing.assert_array_equal(found.tensors[MASK], start()[MASK])
        assert found.tensors.keys() == start().keys()
        assert not any(MARK in name for name in found.strategy_tensors), "no strategy keeps anything of them"


@pytest.mark.parametrize("strategy", ["fedmedian", "fedtrimmedavg", "krum", "multikrum", "bulyan"])
def test_one_who_lies_moves_no_state_under_a_robust_strategy(tmp_path: Path, strategy: str) -> None:
    config = make_config(7, strategy=strategy, min_train_clients=7, admission={"max_norm_ratio": 0})
    updates = {name: update(0) for name in NAMES[:6]}
    lie = update(0) | {VARIANCE: np.full(4, -1e6, np.float32), COUNT: np.array(-5, np.int64), OVER: np.array(False)}
    found = one_round(config, tmp_path, {**updates, NAMES[6]: lie})
    for name in (VARIANCE, COUNT, OVER):
        np.testing.assert_array_equal(found.tensors[name], update(0)[name])


def test_one_client_alone_gives_what_it_has(tmp_path: Path) -> None:
    own = update(2)
    found = one_round(make_config(1, min_train_clients=1), tmp_path, {NAMES[0]: own})
    assert all(np.array_equal(found.tensors[name], value) for name, value in own.items())


def test_what_all_have_alike_does_not_change_by_a_bit() -> None:
    value = np.random.default_rng(1).standard_normal(1000).astype(np.float32)
    weights = [0.1, 0.2, 0.7]
    assert np.array_equal(combined([value] * 3, weights, "fedavg"), value)
    assert not np.array_equal(sum(weight * value for weight in weights), value), "a mean would have moved it"


def test_they_are_compared_apart_from_the_weights(tmp_path: Path) -> None:
    """A change of weights a hundred times the usual is not hidden by variances that move more; nor is theirs."""
    config = make_config(5, min_train_clients=3, admission={"max_norm_ratio": 10})
    updates = everybody(5)
    for own in updates.values():
        own[VARIANCE] = own[VARIANCE] + np.float32(1000)
        own["weight"] = start()["weight"] + np.float32(0.01)
    updates["attic"]["weight"] = start()["weight"] + np.float32(1)
    updates["study"][VARIANCE] = updates["study"][VARIANCE] * np.float32(100)
    found = one_round(config, tmp_path, updates)
    said = {failure.client: failure.message for failure in found.failures}
    assert said.keys() == {"attic", "study"}
    assert "its change has the norm" in said["attic"]
    assert "what it learns beside its parameters has the norm" in said["study"]
    assert np.allclose(found.tensors[VARIANCE], 1000, atol=0.1)
    (kept,) = found.history.record()["beside"]
    assert np.allclose(kept, 2000, atol=1), "what was usual is remembered for the next round"


def test_they_stay_where_no_noise_can_be_put_on_them(tmp_path: Path) -> None:
    config = make_config(3, min_train_clients=3, weighting="uniform", privacy={"kind": "fixed"})
    assert unsent(start(), config) == {VARIANCE, COUNT, OVER, MASK}
    updates = {client: {"weight": own["weight"]} for client, own in everybody(3).items()}
    found = one_round(config, tmp_path, updates)
    assert all(np.array_equal(found.tensors[name], start()[name]) for name in (VARIANCE, COUNT, OVER, MASK))
    assert not np.array_equal(found.tensors["weight"], start()["weight"])
    with pytest.raises(QuorumError, match=r"tensor 'state:bn\.num_batches' is frozen"):
        one_round(config, tmp_path, everybody(3))
