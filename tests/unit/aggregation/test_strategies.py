"""Flower's strategies as zk0 runs them: the papers' formulas in a few lines of numpy, dtypes, and exact resume."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAdam, FedAvgM, FedYogi
from numpy.typing import NDArray

from tests import ROOT
from zk0.aggregation.server_round import ServerRound
from zk0.aggregation.strategies import make_strategy
from zk0.config import STRATEGY_KEYS, FederationConfig, RunConfig
from zk0.files import atomic
from zk0.runs.store import RunStore
from zk0.work.records import ArtifactRef, ClientResult

Tensors = dict[str, NDArray[Any]]
CLIENTS = ("delta", "alpha", "charlie")
EXAMPLES = (107, 207, 50)
SERVERS = {
    "fedavgm": {"server_learning_rate": 0.7, "server_momentum": 0.8},
    "fedadam": {"eta": 0.02, "beta_1": 0.8, "beta_2": 0.95, "tau": 0.01},
    "fedyogi": {"eta": 0.03, "beta_1": 0.7, "beta_2": 0.9, "tau": 0.02},
}
"""Strategies with a state, with values that are not the defaults."""
CHANGED = {
    "server_learning_rate": 0.5, "server_momentum": 0.5, "eta": 0.05, "beta_1": 0.5, "beta_2": 0.5, "tau": 0.1
}  # fmt: skip


def make_config(strategy: str, outputs: Path, **keys: Any) -> RunConfig:
    clients = [{"name": name, "repo_id": f"lab/{name}"} for name in CLIENTS]
    return RunConfig.model_validate(
        {
            "clients": clients,
            "policy": {"path": "lab/base"},
            "federation": {"num_rounds": 9, "strategy": strategy, **keys},
            "outputs_dir": str(outputs),
        }
    )


def start() -> Tensors:
    """Every dtype that can be in the file: the exchanged tensors are float32."""
    rng = np.random.default_rng(0)
    return {
        "z.weight": rng.standard_normal((12, 5)).astype(np.float32),
        "a.bias": rng.standard_normal(5).astype(np.float32),
        "scalar": np.array(0.5, np.float32),
        "double": rng.standard_normal(4),
        "half": rng.standard_normal(4).astype(np.float16),
        "counter": np.array(3, np.int64),
    }


def update_of(client: str, server_round: int, current: Tensors) -> Tensors:
    """What a client makes of the global tensors; depends on who and when."""
    rng = np.random.default_rng([server_round, CLIENTS.index(client)])
    return {
        name: np.asarray(value * 0.9 + 0.1 * rng.standard_normal(value.shape), value.dtype)
        for name, value in sorted(current.items())
    }


def create(config: RunConfig, name: str) -> RunStore:
    store = RunStore.create_or_open(config, name)
    store.commit(0, arrays=start(), strategy_tensors={}, strategy_scalars={}, metrics={})
    return store


def advance(folder: str, first: int, last: int) -> None:
    """Rounds of a run, each from what the run directory holds: fits, aggregation, commit."""
    store = RunStore.open(folder)
    for number in range(first, last + 1):
        before = store.path(store.state(number - 1).arrays)
        results = [fitted(store, client, number, atomic.read_tensors(before)) for client in CLIENTS]
        attempt = ServerRound(store.config, number, before, *store.load_strategy_state(number - 1))
        outcome = attempt.aggregate(results, store.folder)
        store.commit(
            number,
            arrays=outcome.tensors,
            strategy_tensors=outcome.strategy_tensors,
            strategy_scalars=outcome.strategy_scalars,
            metrics={},
        )


def fitted(store: RunStore, client: str, number: int, current: Tensors) -> ClientResult:
    path = store.round_folder(number) / "clients" / client / "update.safetensors"
    digest = atomic.write_tensors(path, update_of(client, number, current))
    return ClientResult(
        key=client,
        kind="train",
        server_round=number,
        client=client,
        tensors=ArtifactRef(
            path=path.relative_to(store.folder).as_posix(), sha256=digest.sha256, size=digest.size
        ),
        num_examples=EXAMPLES[CLIENTS.index(client)],
        metrics={"loss": 1.0},
        duration_s=1.0,
        peak_rss_bytes=1,
        pid=1,
    )  # fmt: skip


def global_tensors(store: RunStore, number: int) -> Tensors:
    return atomic.read_tensors(store.path(store.state(number).arrays))


def rounds_of(store: RunStore, last: int) -> Iterator[tuple[int, Tensors, Tensors, Tensors]]:
    """(round, tensors before, mean of the updates in float64, tensors after)."""
    for number in range(1, last + 1):
        before = global_tensors(store, number - 1)
        shares = np.array(EXAMPLES) / sum(EXAMPLES)
        updates = [update_of(client, number, before) for client in CLIENTS]
        mean = {
            name: sum(share * update[name].astype(np.float64) for share, update in zip(shares, updates, strict=True))
            for name in before
        }
        yield number, before, mean, global_tensors(store, number)


# -- the formulas


def fedavgm(server_learning_rate: float, server_momentum: float) -> Callable[..., NDArray[Any]]:
    """Hsu et al. 2019, arXiv:1909.06335: v <- beta v + dw; w <- w - v, and a server's learning rate before v."""
    momentum: dict[str, Any] = {}

    def step(number: int, name: str, before: NDArray[Any], mean: NDArray[Any]) -> NDArray[Any]:
        momentum[name] = server_momentum * momentum.get(name, 0.0) + (before - mean)
        return np.asarray(before - server_learning_rate * momentum[name])

    return step


def fedadam(eta: float, beta_1: float, beta_2: float, tau: float) -> Callable[..., NDArray[Any]]:
    """Reddi et al. 2021, arXiv:2003.00295, algorithm 2, with Adam's bias correction (arXiv:1412.6980, section 2).

    Flower counts the rounds in the correction from 2.
    """
    m: dict[str, Any] = {}
    v: dict[str, Any] = {}

    def step(number: int, name: str, before: NDArray[Any], mean: NDArray[Any]) -> NDArray[Any]:
        delta, t = mean - before, number + 1
        m[name] = beta_1 * m.get(name, 0.0) + (1 - beta_1) * delta
        v[name] = beta_2 * v.get(name, 0.0) + (1 - beta_2) * delta**2
        rate = eta * np.sqrt(1 - beta_2**t) / (1 - beta_1**t)
        return np.asarray(before + rate * m[name] / (np.sqrt(v[name]) + tau))

    return step


def fedyogi(eta: float, beta_1: float, beta_2: float, tau: float) -> Callable[..., NDArray[Any]]:
    """Reddi et al. 2021, arXiv:2003.00295, algorithm 2; no bias correction."""
    m: dict[str, Any] = {}
    v: dict[str, Any] = {}

    def step(number: int, name: str, before: NDArray[Any], mean: NDArray[Any]) -> NDArray[Any]:
        delta = mean - before
        m[name] = beta_1 * m.get(name, 0.0) + (1 - beta_1) * delta
        old = v.get(name, 0.0)
        v[name] = old - (1 - beta_2) * delta**2 * np.sign(old - delta**2)
        return np.asarray(before + eta * m[name] / (np.sqrt(v[name]) + tau))

    return step


FORMULAS: dict[str, Callable[..., Callable[..., NDArray[Any]]]] = {
    "fedavgm": fedavgm, "fedadam": fedadam, "fedyogi": fedyogi
}  # fmt: skip


@pytest.mark.parametrize("name", SERVERS)
def test_the_papers_formula_over_four_rounds(tmp_path: Path, name: str) -> None:
    store = create(make_config(name, tmp_path, **SERVERS[name]), name)
    advance(str(store.folder), 1, 4)
    step = FORMULAS[name](**SERVERS[name])
    for number, before, mean, after in rounds_of(store, 4):
        for key in ("z.weight", "a.bias", "scalar", "double"):
            expected = step(number, key, before[key].astype(np.float64), mean[key])
            np.testing.assert_allclose(after[key], expected, rtol=2e-5, atol=2e-6, err_msg=f"{key}, round {number}")
            assert np.abs(after[key] - mean[key]).max() > 1e-3, "would not differ from FedAvg"


@pytest.mark.parametrize("name", ["fedavg", "fedprox", *SERVERS])
def test_dtypes_and_shapes_of_the_input_are_kept(tmp_path: Path, name: str) -> None:
    store = create(make_config(name, tmp_path, **SERVERS.get(name, {})), name)
    advance(str(store.folder), 1, 2)
    after = global_tensors(store, 2)
    assert {key: (value.dtype, value.shape) for key, value in after.items()} == {
        key: (value.dtype, value.shape) for key, value in start().items()
    }
    assert all(np.isfinite(value).all() for value in after.values())


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_what_a_client_counts(tmp_path: Path, weighting: str) -> None:
    """Of the tensors, and of the clients' metrics."""
    store = create(make_config("fedavg", tmp_path, weighting=weighting), weighting)
    counts = np.array(EXAMPLES) if weighting == "examples" else np.ones(3)
    before = store.path(store.state(0).arrays)
    results = [
        fitted(store, client, 1, start()).model_copy(update={"metrics": {"loss": float(number)}})
        for number, client in enumerate(CLIENTS)
    ]
    outcome = ServerRound(store.config, 1, before).aggregate(results, store.folder)
    assert outcome.metrics["loss"] == pytest.approx(np.dot(counts, [0, 1, 2]) / counts.sum())
    updates = [update_of(client, 1, start())["double"] for client in CLIENTS]
    np.testing.assert_allclose(outcome.tensors["double"], np.average(updates, axis=0, weights=counts), rtol=1e-6)


# -- resume


@pytest.mark.parametrize("name", ["fedavg", "fedprox", *SERVERS])
def test_a_fresh_process_goes_on_with_the_same_bytes(tmp_path: Path, name: str) -> None:
    config = make_config(name, tmp_path, **SERVERS.get(name, {}))
    whole, broken = create(config, "whole"), create(config, "broken")
    advance(str(whole.folder), 1, 5)
    advance(str(broken.folder), 1, 2)
    code = f"from {__name__} import advance; advance({str(broken.folder)!r}, 3, 5)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    assert whole.state(5).arrays.sha256 == broken.state(5).arrays.sha256
    for file in ("strategy.safetensors", "strategy.json"):
        ends = [store.round_folder(5) / file for store in (whole, broken)]
        assert [path.exists() for path in ends] == [name in SERVERS or file.endswith("json")] * 2
        if ends[0].exists():
            assert ends[0].read_bytes() == ends[1].read_bytes()


@pytest.mark.parametrize("name", SERVERS)
def test_without_its_state_a_run_would_end_otherwise(tmp_path: Path, name: str) -> None:
    config = make_config(name, tmp_path, **SERVERS[name])
    whole, forgetful = create(config, "whole"), create(config, "forgetful")
    advance(str(whole.folder), 1, 3)
    advance(str(forgetful.folder), 1, 2)
    state = forgetful.state(2)
    forgetful.commit(2, arrays=state.arrays, strategy_tensors={}, strategy_scalars={}, metrics={})
    advance(str(forgetful.folder), 3, 3)
    assert whole.state(3).arrays.sha256 != forgetful.state(3).arrays.sha256


def test_only_what_is_not_set_anew_is_saved(tmp_path: Path) -> None:
    kept = {"fedavgm": {"momentum_vector", "current_arrays"}, "fedadam": {"m_t", "v_t"}, "fedyogi": {"m_t", "v_t"}}
    for name, expected in kept.items():
        store = create(make_config(name, tmp_path, **SERVERS[name]), name)
        advance(str(store.folder), 1, 1)
        tensors, scalars = store.load_strategy_state(1)
        assert {key.split("/")[0] for key in tensors} == set(scalars) == expected


# -- the keys


@pytest.mark.parametrize(("name", "key"), [(name, key) for name in SERVERS for key in STRATEGY_KEYS[name]])
def test_every_key_of_a_strategy_changes_its_result(tmp_path: Path, name: str, key: str) -> None:
    digests = []
    for value in (SERVERS[name][key], CHANGED[key]):
        store = create(make_config(name, tmp_path, **SERVERS[name] | {key: value}), f"{key}-{value}")
        advance(str(store.folder), 1, 2)
        digests.append(store.state(2).arrays.sha256)
    assert digests[0] != digests[1]


def test_without_keys_the_documented_values_hold() -> None:
    avgm = make_strategy(FederationConfig(strategy="fedavgm"), 3)
    assert isinstance(avgm, FedAvgM)
    assert (avgm.server_learning_rate, avgm.server_momentum) == (1.0, 0.9)
    for name, kind, eta in (("fedadam", FedAdam, 0.1), ("fedyogi", FedYogi, 0.01)):
        made = make_strategy(FederationConfig.model_validate({"strategy": name}), 3)
        assert type(made) is kind
        assert (made.eta, made.beta_1, made.beta_2, made.tau) == (eta, 0.9, 0.99, 1e-3)
