"""Differential privacy by Flower's wrappers: clipping, noise, the spent epsilon, and exact resume."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg

from tests.unit.aggregation.made import NAMES, Tensors, all_honest, make_config, moved, norm, one_round, start
from zk0.aggregation import norms
from zk0.aggregation.flower import NodeGrid, ensure_task_identity, seeded
from zk0.aggregation.privacy import check_privacy_budget
from zk0.aggregation.server_round import Aggregate, ServerRound
from zk0.aggregation.strategies import check_strategy
from zk0.config import RunConfig
from zk0.errors import ConfigError
from zk0.files import atomic
from zk0.seeding import derive_seed

FIXED: dict[str, Any] = {"kind": "fixed", "noise_multiplier": 0.8, "clipping_norm": 0.7}
ADAPTIVE: dict[str, Any] = {"kind": "adaptive", "noise_multiplier": 0.3, "clipping_norm": 0.7}
OFF = {"max_norm_ratio": 0}


def private(clients: int = 5, rounds: int = 3, **keys: Any) -> RunConfig:
    return make_config(clients, weighting="uniform", privacy=keys, admission=OFF, num_rounds=rounds)


def digest(outcome: Aggregate) -> bytes:
    return b"".join(value.tobytes() for _, value in sorted(outcome.tensors.items()))


def clipped_by_hand(update: Tensors, most: float) -> Tensors:
    return moved(update, min(1.0, most / norm(update)))


@pytest.mark.parametrize("kind", ["fixed", "adaptive"])
def test_without_noise_and_with_a_huge_bound_it_is_fedavg_to_the_bit(tmp_path: Path, kind: str) -> None:
    updates = all_honest()
    plain = one_round(make_config(weighting="uniform"), tmp_path, updates)
    without = one_round(private(kind=kind, noise_multiplier=0, clipping_norm=1e9), tmp_path, updates)
    assert digest(without) == digest(plain)
    assert "epsilon" not in without.privacy


def test_each_change_is_clipped_and_the_noise_is_that_of_the_seed(tmp_path: Path) -> None:
    """The formula: the mean of the clipped updates, and N(0, (z C / n)^2) for every number."""
    updates = all_honest()
    outcome = one_round(private(**FIXED), tmp_path, updates)
    with seeded(derive_seed(42, 1, "", "aggregation")):
        for name in ("a", "b"):
            mean = np.mean([clipped_by_hand(update, 0.7)[name] for update in updates.values()], axis=0)
            noise = np.random.normal(0, 0.8 * 0.7 / 5, mean.shape)  # noqa: NPY002 - the generator Flower draws from
            np.testing.assert_allclose(outcome.tensors[name], mean + noise, rtol=1e-6, atol=2e-5)
    assert digest(outcome) == digest(one_round(private(**FIXED), tmp_path, updates))
    other = private(**FIXED).model_copy(update={"seed": 43})
    assert digest(outcome) != digest(one_round(other, tmp_path, updates))


def test_it_is_what_flowers_own_server_side_wrapper_gives(tmp_path: Path) -> None:
    updates = all_honest()
    outcome = one_round(private(**FIXED), tmp_path, updates)
    ensure_task_identity()
    theirs = DifferentialPrivacyServerSideFixedClipping(FedAvg(), 0.8, 0.7, 5)
    record = ArrayRecord({name: Array(value) for name, value in start().items() if name != "n"})
    messages = sorted(
        theirs.configure_train(1, record, ConfigRecord(), NodeGrid(5)), key=lambda item: item.metadata.dst_node_id
    )
    replies = []
    for message, update in zip(messages, updates.values(), strict=True):
        sent = ArrayRecord({name: Array(value) for name, value in update.items() if name != "n"})
        replies.append(
            Message(RecordDict({"arrays": sent, "metrics": MetricRecord({"num-examples": 1})}), reply_to=message)
        )
    with seeded(derive_seed(42, 1, "", "aggregation")):
        expected, _ = theirs.aggregate_train(1, replies)
    assert expected is not None
    for name in ("a", "b"):
        np.testing.assert_allclose(outcome.tensors[name], expected[name].numpy(), rtol=1e-6, atol=2e-5)


@pytest.mark.parametrize("keys", [FIXED, ADAPTIVE], ids=["fixed", "adaptive"])
def test_the_epsilon_of_every_round_is_that_of_the_gaussian_mechanism(tmp_path: Path, keys: dict[str, Any]) -> None:
    """By hand: the RDP of k releases is k a / (2 z^2); the tightest order, converted as by Canonne et al. 2020."""
    config, delta, z = private(**keys), 1e-5, keys["noise_multiplier"]
    outcome = None
    for number in (1, 2, 3):
        outcome = one_round(config, tmp_path, all_honest(5, number), outcome, number)
        best = min(
            number * order / (2 * z**2) + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)
            for order in np.arange(1.01, 200, 0.01)
        )
        assert outcome.privacy["epsilon"] == pytest.approx(best, rel=0.02)
        assert outcome.privacy["delta"] == delta
    assert outcome is not None
    assert check_privacy_budget(config) == pytest.approx(outcome.privacy["epsilon"])


@pytest.mark.parametrize("keys", [FIXED, ADAPTIVE], ids=["fixed", "adaptive"])
def test_ledger_and_bound_are_taken_up_exactly(tmp_path: Path, keys: dict[str, Any]) -> None:
    """Six rounds are three, saved and read by a new process, and three."""
    config = private(**keys)
    whole = half = None
    for number in range(1, 7):
        whole = one_round(config, tmp_path, all_honest(5, number), whole, number)
        half = half if number > 3 else whole
    assert half is not None
    assert whole is not None
    atomic.write_json(tmp_path / "strategy.json", half.strategy_scalars)
    scalars = atomic.read_json(tmp_path / "strategy.json")
    resumed: Aggregate = Aggregate(half.tensors, {}, half.strategy_tensors, scalars, [], history=half.history)
    for number in range(4, 7):
        resumed = one_round(config, tmp_path, all_honest(5, number), resumed, number)
    assert digest(resumed) == digest(whole)
    assert (resumed.privacy, resumed.strategy_scalars) == (whole.privacy, whole.strategy_scalars)


def test_the_bound_adapts_towards_the_quantile(tmp_path: Path) -> None:
    """Where half of the norms should be below it and all are, it falls; where none is, it rises."""
    sizes = {name: norm(update) for name, update in all_honest().items()}
    for begin, rises in ((0.1, True), (9.0, False)):
        config = private(kind="adaptive", noise_multiplier=0, clipping_norm=begin)
        outcome = one_round(config, tmp_path, all_honest())
        share = float(np.mean([size <= begin for size in sizes.values()]))
        assert outcome.privacy["next_clipping_norm"] == pytest.approx(begin * math.exp(-0.2 * (share - 0.5)))
        assert (outcome.privacy["next_clipping_norm"] > begin) is rises
        later = outcome
        for number in range(2, 30):
            later = one_round(config, tmp_path, all_honest(5, number), later, number)
        assert later.privacy["next_clipping_norm"] == pytest.approx(float(np.median([*sizes.values()])), rel=0.35)


def test_a_client_clips_before_it_sends_and_is_held_to_it(tmp_path: Path) -> None:
    config = private(side="client", **FIXED)
    atomic.write_tensors(tmp_path / "global.safetensors", start())
    assert ServerRound(config, 1, tmp_path / "global.safetensors").configure().clipping_norm == 0.7
    assert ServerRound(private(**FIXED), 1, tmp_path / "global.safetensors").configure().clipping_norm is None
    sent, was_larger = {}, {}
    for name, update in all_honest().items():
        sent[name], was_larger[name] = norms.clipped(update, start(), 0.7)
        assert norm(sent[name]) == pytest.approx(0.7, rel=1e-3)
    assert all(was_larger.values())
    outcome = one_round(config, tmp_path, sent)
    np.testing.assert_allclose(
        outcome.tensors["b"], one_round(private(**FIXED), tmp_path, all_honest()).tensors["b"], rtol=1e-5, atol=1e-4
    )
    liar = one_round(config, tmp_path, {**sent, "study": all_honest()["study"]})
    (failure,) = liar.failures
    assert (failure.client, failure.cause) == ("study", "bad_data")
    assert "should have been clipped to 0.7" in failure.message


def test_within_the_bound_a_client_changes_nothing() -> None:
    update = all_honest()["study"]
    same, larger = norms.clipped(update, start(), 100.0)
    assert not larger
    assert all(same[name] is update[name] for name in update)
    still, larger = norms.clipped(start(), start(), 0.1)
    assert not larger
    assert norm(still) == 0


def test_the_noise_is_for_those_who_are_there(tmp_path: Path) -> None:
    """Of five, two fail: the mean is of three, and so is the share of one that the noise must hide."""
    updates = {name: update for name, update in all_honest().items() if name in NAMES[:3]}
    outcome = one_round(private(**FIXED), tmp_path, updates)
    assert [failure.client for failure in outcome.failures] == list(NAMES[3:5])
    with seeded(derive_seed(42, 1, "", "aggregation")):
        mean = np.mean([clipped_by_hand(update, 0.7)["a"] for update in updates.values()], axis=0)
        noise = np.random.normal(0, 0.8 * 0.7 / 3, mean.shape)  # noqa: NPY002
    np.testing.assert_allclose(outcome.tensors["a"], mean + noise, rtol=1e-6, atol=2e-5)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"kind": "fixed", "max_epsilon": 1.0}, ["federation.privacy.max_epsilon = 1", "raise noise_multiplier"]),
        (
            {"kind": "adaptive", "noise_multiplier": 1.0},
            ["noise_multiplier = 1 with 5 clients", "clipped_count_stddev"],
        ),
    ],
)
def test_what_cannot_be_is_refused_before_the_run(keys: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_strategy(private(**keys))
    assert all(word in str(caught.value) for word in words), str(caught.value)
    check_strategy(private(**{**keys, "noise_multiplier": 0.4, "max_epsilon": 1e4}))


KEYS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (FIXED, {"noise_multiplier": 0.9}),
    (FIXED, {"clipping_norm": 0.6}),
    (ADAPTIVE, {"target_clipped_quantile": 0.9}),
    (ADAPTIVE, {"clip_norm_lr": 0.1}),
    (ADAPTIVE, {"clipped_count_stddev": 0.2}),
]


@pytest.mark.parametrize(("keys", "change"), KEYS, ids=[next(iter(change)) for _, change in KEYS])
def test_every_key_changes_the_result(tmp_path: Path, keys: dict[str, Any], change: dict[str, Any]) -> None:
    first, other = (one_round(private(**made), tmp_path, all_honest()) for made in (keys, {**keys, **change}))
    assert (digest(first), first.privacy["next_clipping_norm"]) != (digest(other), other.privacy["next_clipping_norm"])


def test_delta_is_told_with_its_epsilon(tmp_path: Path) -> None:
    first, other = (one_round(private(**FIXED, delta=delta), tmp_path, all_honest()) for delta in (1e-5, 1e-3))
    assert other.privacy["delta"] == 1e-3
    assert other.privacy["epsilon"] < first.privacy["epsilon"]
