"""Robust strategies, against their formulas in a few lines of numpy, and against clients that lie."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.unit.aggregation.made import Tensors, all_honest, make_config, moved, norm, one_round, result, start
from zk0.aggregation.flower import WideArray, lazy_record
from zk0.aggregation.server_round import ServerRound
from zk0.aggregation.strategies import make_strategy
from zk0.config import STRATEGY_KEYS, FederationConfig
from zk0.errors import QuorumError
from zk0.files import atomic

ROBUST: dict[str, dict[str, Any]] = {
    "fedtrimmedavg": {"beta": 0.3},
    "fedmedian": {},
    "krum": {"num_malicious_nodes": 1},
    "multikrum": {"num_malicious_nodes": 2, "num_nodes_to_select": 3},
    "bulyan": {"num_malicious_nodes": 1},
}


def flat(update: Tensors) -> NDArray[np.float64]:
    return np.concatenate([np.ravel(update[name]).astype(np.float64) for name in sorted(update)])


def krum_order(points: list[NDArray[np.float64]], malicious: int) -> list[int]:
    """Indices by Krum's score: the sum of the squared distances to the n - f - 2 nearest others."""
    scores = []
    for one in points:
        distances = sorted(float(np.sum((one - other) ** 2)) for other in points if other is not one)
        scores.append(sum(distances[: len(points) - malicious - 2]))
    return sorted(range(len(points)), key=scores.__getitem__)


def trimmed(points: list[NDArray[np.float64]], beta: float = 0.3, **_: Any) -> NDArray[np.float64]:
    cut = int(beta * len(points))
    return np.sort(points, axis=0)[cut : len(points) - cut].mean(axis=0)


def median(points: list[NDArray[np.float64]], **_: Any) -> NDArray[np.float64]:
    ordered, half = np.sort(points, axis=0), len(points) // 2
    return ordered[half] if len(points) % 2 else (ordered[half - 1] + ordered[half]) / 2


def krum(points: list[NDArray[np.float64]], num_malicious_nodes: int, **_: Any) -> NDArray[np.float64]:
    return points[krum_order(points, num_malicious_nodes)[0]]


def multikrum(
    points: list[NDArray[np.float64]], num_malicious_nodes: int, num_nodes_to_select: int, **_: Any
) -> NDArray[np.float64]:
    chosen = krum_order(points, num_malicious_nodes)[:num_nodes_to_select]
    return np.mean([points[index] for index in chosen], axis=0)


def bulyan(points: list[NDArray[np.float64]], num_malicious_nodes: int, **_: Any) -> NDArray[np.float64]:
    """The n - 2 f of the best Krum scores; of each number the mean of the n - 4 f that are nearest to their median."""
    left = len(points) - 2 * num_malicious_nodes
    chosen = np.stack([points[index] for index in krum_order(points, num_malicious_nodes)[:left]])
    far = np.abs(chosen - np.median(chosen, axis=0))
    nearest = np.argsort(far, axis=0)[: left - 2 * num_malicious_nodes]
    return np.take_along_axis(chosen, nearest, axis=0).mean(axis=0)


FORMULAS: dict[str, Callable[..., NDArray[np.float64]]] = {
    "fedtrimmedavg": trimmed, "fedmedian": median, "krum": krum, "multikrum": multikrum, "bulyan": bulyan
}  # fmt: skip


@pytest.mark.parametrize("name", ROBUST)
@pytest.mark.parametrize("liar", [False, True], ids=["honest", "one lies"])
def test_the_papers_formula(tmp_path: Path, name: str, liar: bool) -> None:
    config = make_config(7, strategy=name, **ROBUST[name], admission={"max_norm_ratio": 0})
    updates = all_honest(7)
    if liar:
        updates["study"] = moved(updates["study"], -50)
    outcome = one_round(config, tmp_path, updates)
    expected = FORMULAS[name]([flat(update) for update in updates.values()], **ROBUST[name])
    got = flat({key: value.astype(np.float64) for key, value in outcome.tensors.items()})
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-5)
    assert {key: (value.dtype, value.shape) for key, value in outcome.tensors.items()} == {
        key: (value.dtype, value.shape) for key, value in start().items()
    }
    assert (outcome.strategy_tensors, outcome.strategy_scalars) == ({}, {}), "they keep nothing"
    assert norm(outcome.tensors) < 2, "nobody was followed far"


@pytest.mark.parametrize(("name", "key"), [(name, key) for name in ROBUST for key in STRATEGY_KEYS[name]])
def test_every_key_changes_the_result(tmp_path: Path, name: str, key: str) -> None:
    changed = {"beta": 0.45, "num_malicious_nodes": 0, "num_nodes_to_select": 5}[key]
    seen = []
    for number in range(1, 9):  # who is nearest to so many others may be the same for more and for fewer
        updates = all_honest(7, number)
        made = [
            one_round(make_config(7, strategy=name, **{**ROBUST[name], key: value}), tmp_path, updates).tensors["b"]
            for value in (ROBUST[name][key], changed)
        ]
        seen.append(np.array_equal(made[0], made[1]))
    assert not all(seen)


def test_krum_looks_at_fewer_neighbours_with_more_liars(tmp_path: Path) -> None:
    """Two far away who agree: with f = 0 they count, with f = 2 they do not."""
    updates = all_honest(7)
    updates["study"] = updates["attic"] = moved(updates["study"], 1.5)
    made = {
        f: one_round(make_config(7, strategy="krum", num_malicious_nodes=f), tmp_path, updates).tensors
        for f in (0, 1, 2)
    }
    points = [flat(update) for update in updates.values()]
    for f, tensors in made.items():
        np.testing.assert_allclose(flat(tensors), krum(points, f), rtol=1e-6, atol=1e-5)


def test_krum_tells_near_updates_of_large_tensors_apart(tmp_path: Path) -> None:
    """In float32 the distances of these, 1e-4 of their size, would be rounding: ||x||^2 is 4e9."""
    base = {"w": np.full(4000, 1000.0, np.float32)}
    rng = np.random.default_rng(0)
    sizes = (0.5, 0.1, 0.2, 0.3, 0.4)
    clients = ("kitchen", "workshop", "greenhouse", "study", "attic")
    updates = {
        name: {**start(), "b": (base["w"] + size * rng.standard_normal(4000)).astype(np.float32)}
        for name, size in zip(clients, sizes, strict=True)
    }
    atomic.write_tensors(tmp_path / "global.safetensors", {**start(), "b": base["w"]})
    config = make_config(5, strategy="krum")
    results = [result(tmp_path, name, update) for name, update in updates.items()]
    outcome = ServerRound(config, 1, tmp_path / "global.safetensors").aggregate(results, tmp_path)
    best = krum_order([flat(update) for update in updates.values()], 1)[0]
    assert outcome.tensors["b"].tobytes() == updates[clients[best]]["b"].tobytes()


def test_a_wide_array_is_read_when_it_is_asked_for(tmp_path: Path) -> None:
    atomic.write_tensors(tmp_path / "t.safetensors", {"w": np.array([0.1], np.float32)})
    wide = WideArray(lazy_record(tmp_path / "t.safetensors")["w"])
    assert wide.data == b""
    assert wide.numpy().dtype == np.float64
    assert wide.numpy()[0] == np.float32(0.1)


def test_who_failed_or_was_refused_is_one_of_the_malicious(tmp_path: Path) -> None:
    """Of five with f = 1, one sends NaN: the other four are Krum's with f = 0, and no round is lost."""
    updates = all_honest()
    updates["study"] = {**updates["study"], "b": np.full(40, np.nan, np.float32)}
    outcome = one_round(make_config(strategy="krum"), tmp_path, updates)
    assert [failure.client for failure in outcome.failures] == ["study"]
    points = [flat(update) for name, update in updates.items() if name != "study"]
    np.testing.assert_allclose(flat(outcome.tensors), krum(points, 0), rtol=1e-6, atol=1e-5)
    few = {name: updates[name] for name in ("kitchen", "workshop")}
    with pytest.raises(QuorumError, match=r"2 of 5 clients gave an update and federation.strategy = 'krum' needs 3"):
        one_round(make_config(strategy="krum"), tmp_path, few)


def test_values_that_are_left_out() -> None:
    multi: Any = make_strategy(FederationConfig(strategy="multikrum"), 7)
    assert (multi.num_malicious_nodes, multi.num_nodes_to_select) == (1, 6)
    trimmed_mean: Any = make_strategy(FederationConfig(strategy="fedtrimmedavg"), 7)
    assert trimmed_mean.beta == 0.2
