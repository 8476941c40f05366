"""LoRA's pairs of factors on the server, beside plain numpy over the products written out."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests import ROOT
from tests.unit.aggregation.test_server_round import CLIENTS, digest, failure, result
from zk0.aggregation import lora
from zk0.aggregation.admission import check_update
from zk0.aggregation.server_round import ServerRound
from zk0.config import RunConfig
from zk0.errors import ClientError
from zk0.files import atomic

Tensors = dict[str, NDArray[Any]]
RANK = 3
SHAPES = {"wide.q_proj": (9, 14), "action.in_proj": (12, 2), "action.out_proj": (2, 12)}
"""Module -> (out, in) of its weight; two of them are narrower than the rank."""


def factors(seed: int, out: int = 9, into: int = 14, rank: int = RANK) -> lora.Factors:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((out, rank)).astype(np.float32), rng.standard_normal((rank, into)).astype(np.float32)


def product_mean(clients: list[lora.Factors], weights: list[float]) -> NDArray[np.float64]:
    """sum w_i B_i A_i, written out."""
    total = np.zeros((len(clients[0][0]), clients[0][1].shape[1]))
    for (b, a), weight in zip(clients, weights, strict=True):
        total += weight * (b.astype(np.float64) @ a.astype(np.float64))
    return total


def adapters(seed: int, dtype: Any = np.float32) -> Tensors:
    """Tensors as PEFT names them: three adapters, a module trained in full, and one without a partner."""
    rng = np.random.default_rng(seed)
    made: Tensors = {
        "base_model.model.head.weight": rng.standard_normal((2, 4)).astype(np.float32),
        "base_model.model.head.bias": rng.standard_normal(4).astype(np.float32),
    }
    for module, (out, into) in SHAPES.items():
        made[f"base_model.model.{module}.lora_A.weight"] = rng.standard_normal((RANK, into)).astype(dtype)
        made[f"base_model.model.{module}.lora_B.weight"] = rng.standard_normal((out, RANK)).astype(dtype)
    return made


def config_of(aggregation: str, **peft: Any) -> RunConfig:
    clients = [{"name": name, "repo_id": f"lab/{name}"} for name in CLIENTS]
    data = {"clients": clients, "policy": {"path": "lab/base"}, "peft": {"aggregation": aggregation, **peft}}
    return RunConfig.model_validate(data)


# -- names


def test_pairs_are_found_as_peft_names_them() -> None:
    names = ["m.b.lora_A.weight", "m.b.lora_B.weight", "m.a.lora_B.weight", "m.a.lora_A.weight", "head.weight"]
    names += ["m.e.lora_embedding_A", "m.e.lora_embedding_B", "lonely.lora_A.weight", "my_lora_A.weight"]
    assert lora.pairs(names) == [
        ("m.a.lora_B.weight", "m.a.lora_A.weight"),
        ("m.b.lora_B.weight", "m.b.lora_A.weight"),
        ("m.e.lora_embedding_B", "m.e.lora_embedding_A"),
    ]
    assert [name for name in names if lora.is_factor_a(name)] == [
        "m.b.lora_A.weight", "m.a.lora_A.weight", "m.e.lora_embedding_A", "lonely.lora_A.weight"
    ]  # fmt: skip
    assert lora.is_factor_a("base_model.model.q_proj.lora_A.default.weight")  # a parameter's name, not a tensor's


# -- the mathematics


@pytest.mark.parametrize("shape", [(9, 14), (14, 9), (2, 12), (12, 2), (2, 2)])
@pytest.mark.parametrize("number", [1, 2, 7])
def test_norm_gap_and_truncation_are_those_of_the_products(shape: tuple[int, int], number: int) -> None:
    clients = [factors(seed, *shape) for seed in range(number)]
    weights = list(np.arange(1, number + 1) / np.arange(1, number + 1).sum())
    mean = product_mean(clients, weights)
    assert lora.norm(clients, weights) == pytest.approx(np.linalg.norm(mean))
    mean_b = sum(weight * b.astype(np.float64) for (b, _), weight in zip(clients, weights, strict=True))
    mean_a = sum(weight * a.astype(np.float64) for (_, a), weight in zip(clients, weights, strict=True))
    assert lora.gap(clients, weights) == pytest.approx(np.linalg.norm(mean_b @ mean_a - mean), abs=1e-12)
    refactored = lora.refactor(clients, weights)
    u, s, vt = np.linalg.svd(mean)  # the nearest matrix of rank r: Eckart and Young, 1936
    nearest = u[:, :RANK][:, : len(s)] * s[:RANK] @ vt[: min(RANK, len(s))]
    np.testing.assert_allclose(refactored.b.astype(float) @ refactored.a, nearest, atol=5e-6)
    assert refactored.dropped == pytest.approx(np.linalg.norm(s[RANK:]), abs=1e-12)


def test_clients_that_agree_lose_nothing() -> None:
    one = factors(5)
    clients, weights = [one] * 4, [0.1, 0.2, 0.3, 0.4]
    assert lora.gap(clients, weights) < 1e-14
    refactored = lora.refactor(clients, weights)
    assert refactored.dropped < 1e-13
    np.testing.assert_allclose(refactored.b @ refactored.a, one[0] @ one[1], atol=1e-5)


def test_one_a_for_all_makes_averaging_apart_exact() -> None:
    """FFA-LoRA, Sun et al. 2024, arXiv:2403.12313: mean(B_i) A = mean(B_i A)."""
    a = factors(0)[1]
    clients = [(factors(seed)[0], a) for seed in range(1, 5)]
    assert lora.gap(clients, [0.4, 0.3, 0.2, 0.1]) < 1e-14
    assert lora.gap([factors(seed) for seed in range(1, 5)], [0.4, 0.3, 0.2, 0.1]) > 1.0


def test_the_signs_are_settled_and_the_rows_orthonormal() -> None:
    clients, weights = [factors(seed) for seed in range(4)], [0.25] * 4
    refactored = lora.refactor(clients, weights)
    rows = refactored.a[np.arange(RANK), np.abs(refactored.a).argmax(axis=1)]
    assert (rows > 0).all()
    np.testing.assert_allclose(refactored.a @ refactored.a.T, np.eye(RANK), atol=1e-6)
    flipped = [(-b, -a) for b, a in clients]  # the same products
    again = lora.refactor(flipped, weights)
    np.testing.assert_array_equal(refactored.a, again.a)
    np.testing.assert_array_equal(refactored.b, again.b)


def test_an_adapter_that_nobody_moved_stays_able_to_learn() -> None:
    """B = 0 in all clients: with A = 0, too, no gradient would ever reach either."""
    clients = [(np.zeros((9, RANK), np.float32), factors(seed)[1]) for seed in range(3)]
    refactored = lora.refactor(clients, [0.5, 0.25, 0.25])
    assert not refactored.b.any()
    np.testing.assert_allclose(np.linalg.norm(refactored.a, axis=1), 1.0, atol=1e-6)
    assert refactored.dropped == 0.0
    narrow = lora.refactor([factors(seed, 2, 12) for seed in range(3)], [0.5, 0.25, 0.25])  # fewer outputs than rank
    np.testing.assert_allclose(np.linalg.norm(narrow.a, axis=1), 1.0, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_convolutions_and_dtypes_keep_their_form(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    clients = [
        (rng.standard_normal((5, RANK, 1, 1)).astype(dtype), rng.standard_normal((RANK, 2, 3, 3)).astype(dtype))
        for _ in range(3)
    ]
    refactored = lora.refactor(clients, [0.5, 0.25, 0.25])
    assert (refactored.b.shape, refactored.b.dtype) == ((5, RANK, 1, 1), dtype)
    assert (refactored.a.shape, refactored.a.dtype) == ((RANK, 2, 3, 3), dtype)
    flat = lora.refactor([(b.reshape(5, RANK), a.reshape(RANK, 18)) for b, a in clients], [0.5, 0.25, 0.25])
    np.testing.assert_array_equal(refactored.a.reshape(RANK, 18), flat.a)


# -- in a round


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    atomic.write_tensors(tmp_path / "global.safetensors", adapters(0))
    return tmp_path / "global.safetensors"


def weights_of(clients: list[str]) -> list[float]:
    examples = [100 * (CLIENTS.index(client) + 1) + 7 for client in clients]
    return [one / sum(examples) for one in examples]


def relative(error: list[float], whole: list[float]) -> float:
    return float(np.linalg.norm(error) / np.linalg.norm(whole))


def average(tensors: list[NDArray[Any]], shares: list[float]) -> NDArray[Any]:
    """Of tensors, by shares that make one, in double precision."""
    return np.tensordot(shares, np.stack(tensors).astype(np.float64), 1)


def expected_figures(updates: list[Tensors], shares: list[float]) -> dict[str, float]:
    """Gap and truncation over all adapters, from the products written out."""
    whole, gap, truncation = [], [], []
    for b, a in lora.pairs(updates[0]):
        mean = product_mean([(update[b], update[a]) for update in updates], shares)
        apart_b, apart_a = (average([update[name] for update in updates], shares) for name in (b, a))
        whole.append(float(np.linalg.norm(mean)))
        gap.append(float(np.linalg.norm(apart_b @ apart_a - mean)))
        truncation.append(float(np.linalg.norm(np.linalg.svd(mean)[1][RANK:])))
    return {"gap": relative(gap, whole), "truncation": relative(truncation, whole)}


def test_average_names_the_gap_and_changes_nothing_else(arrays: Path, tmp_path: Path) -> None:
    updates = [adapters(index + 1) for index in range(len(CLIENTS))]
    results = [result(tmp_path, client, update) for client, update in zip(CLIENTS, updates, strict=True)]
    aggregate = ServerRound(config_of("average"), 1, arrays).aggregate(results, tmp_path)
    shares = weights_of(list(CLIENTS))
    assert aggregate.lora == {"gap": pytest.approx(expected_figures(updates, shares)["gap"], rel=1e-9)}
    assert aggregate.lora["gap"] > 0.1
    plain = ServerRound(config_of("average", enabled=False), 1, arrays).aggregate(results, tmp_path)
    assert plain.lora == {}
    assert digest(plain.tensors) == digest(aggregate.tensors)
    for name, tensor in aggregate.tensors.items():
        mean = average([update[name] for update in updates], shares)
        np.testing.assert_allclose(tensor, mean, rtol=1e-5, atol=1e-6)


def test_exact_is_the_average_of_the_products_at_rank_r(arrays: Path, tmp_path: Path) -> None:
    """Bai et al. 2024 (FlexLoRA), arXiv:2402.11505: average B A, then SVD."""
    present = [client for client in CLIENTS if client != "bravo"]
    updates = [adapters(CLIENTS.index(client) + 1) for client in present]
    results = [result(tmp_path, client, update) for client, update in zip(present, updates, strict=True)]
    attempt = ServerRound(config_of("exact"), 1, arrays)
    aggregate = attempt.aggregate(results, tmp_path, [failure("bravo")])
    shares = weights_of(present)
    for module, (out, into) in SHAPES.items():
        b, a = (aggregate.tensors[f"base_model.model.{module}.lora_{side}.weight"] for side in "BA")
        assert (b.shape, a.shape) == ((out, RANK), (RANK, into))
        assert b.dtype == a.dtype == np.float32
        names = [f"base_model.model.{module}.lora_{side}.weight" for side in "BA"]
        mean = product_mean([(update[names[0]], update[names[1]]) for update in updates], shares)
        u, s, vt = np.linalg.svd(mean, full_matrices=False)
        np.testing.assert_allclose(b.astype(float) @ a, u[:, :RANK] * s[:RANK] @ vt[:RANK], atol=1e-5)
    head = "base_model.model.head.weight"
    mean = average([update[head] for update in updates], shares)
    np.testing.assert_allclose(aggregate.tensors[head], mean, rtol=1e-5)
    expected = expected_figures(updates, shares)
    assert aggregate.lora == {key: pytest.approx(value, rel=1e-9) for key, value in expected.items()}
    assert 0 < aggregate.lora["truncation"] < aggregate.lora["gap"]
    shuffled = attempt.aggregate(results[::-1], tmp_path, [failure("bravo")])
    assert digest(shuffled.tensors) == digest(aggregate.tensors)


def test_uniform_weights_are_those_of_the_products_too(arrays: Path, tmp_path: Path) -> None:
    config = config_of("exact")
    config = config.model_copy(update={"federation": config.federation.model_copy(update={"weighting": "uniform"})})
    updates = [adapters(index + 1) for index in range(len(CLIENTS))]
    results = [result(tmp_path, client, update) for client, update in zip(CLIENTS, updates, strict=True)]
    figures = ServerRound(config, 1, arrays).aggregate(results, tmp_path).lora
    expected = expected_figures(updates, [1 / len(CLIENTS)] * len(CLIENTS))
    assert figures == {key: pytest.approx(value, rel=1e-9) for key, value in expected.items()}


@pytest.mark.parametrize("threads", ["1", "2"])
def test_exact_gives_the_same_bytes_in_another_process(arrays: Path, tmp_path: Path, threads: str) -> None:
    """Whatever number of threads numpy's linear algebra takes."""
    code = f"import pathlib; from {__name__} import exact_digest as d; print(d(pathlib.Path({str(tmp_path)!r})).hex())"
    command = [sys.executable, "-c", code]
    environment = {"OPENBLAS_NUM_THREADS": threads, "PATH": ""}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=ROOT)
    assert process.stdout.strip() == exact_digest(tmp_path).hex()


def exact_digest(folder: Path) -> bytes:
    """The bytes of a round with larger adapters, so that there is something to share among threads."""
    rng = np.random.default_rng(0)

    def large() -> Tensors:
        return {
            "m.lora_A.weight": rng.standard_normal((16, 720)).astype(np.float32),
            "m.lora_B.weight": rng.standard_normal((960, 16)).astype(np.float32),
        }

    atomic.write_tensors(folder / "large.safetensors", large())
    results = [result(folder, client, large()) for client in CLIENTS]
    return digest(ServerRound(config_of("exact"), 1, folder / "large.safetensors").aggregate(results, folder).tensors)


def only_b(update: Tensors) -> Tensors:
    return {name: value for name, value in update.items() if "lora_A" not in name}


@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm", "fedadam", "fedyogi"])
def test_ffa_leaves_a_as_it_was_to_the_bit(arrays: Path, tmp_path: Path, strategy: str) -> None:
    config = config_of("ffa")
    config = config.model_copy(update={"federation": config.federation.model_copy(update={"strategy": strategy})})
    before = atomic.read_tensors(arrays)
    state: tuple[Any, ...] = ({}, {})
    path = arrays
    for number in (1, 2, 3):
        results = [
            result(tmp_path, client, only_b(adapters(10 * number + index)), server_round=number)
            for index, client in enumerate(CLIENTS)
        ]
        aggregate = ServerRound(config, number, path, *state).aggregate(results, tmp_path)
        state = (aggregate.strategy_tensors, aggregate.strategy_scalars)
        path = tmp_path / f"global-{number}.safetensors"
        atomic.write_tensors(path, aggregate.tensors)
        assert not [name for name in aggregate.strategy_tensors if "lora_A" in name]
    assert aggregate.tensors.keys() == before.keys()
    assert aggregate.lora == {}
    for name, value in before.items():
        assert np.array_equal(aggregate.tensors[name], value) == ("lora_A" in name), name


def test_ffa_averages_the_products_exactly(arrays: Path, tmp_path: Path) -> None:
    before = atomic.read_tensors(arrays)
    updates = [only_b(adapters(index + 1)) for index in range(len(CLIENTS))]
    results = [result(tmp_path, client, update) for client, update in zip(CLIENTS, updates, strict=True)]
    aggregate = ServerRound(config_of("ffa"), 1, arrays).aggregate(results, tmp_path)
    shares = weights_of(list(CLIENTS))
    for b, a in lora.pairs(before):
        mean = product_mean([(update[b], before[a]) for update in updates], shares)
        np.testing.assert_allclose(aggregate.tensors[b].astype(float) @ aggregate.tensors[a], mean, atol=1e-5)


def test_ffa_refuses_an_update_that_brings_an_a(arrays: Path, tmp_path: Path) -> None:
    bad = result(tmp_path, "delta", adapters(1))
    frozen = [name for name in adapters(0) if "lora_A" in name]
    with pytest.raises(ClientError, match=r"tensor '.*in_proj.lora_A.weight' is frozen"):
        check_update(bad, tmp_path, arrays, frozen)
    good = [result(tmp_path, client, only_b(adapters(2))) for client in CLIENTS[1:]]
    aggregate = ServerRound(config_of("ffa"), 1, arrays).aggregate([bad, *good], tmp_path)
    assert [(one.client, one.cause) for one in aggregate.failures] == [("delta", "bad_data")]


def test_the_three_modes_give_three_results(arrays: Path, tmp_path: Path) -> None:
    updates = [adapters(index + 1) for index in range(len(CLIENTS))]
    digests = set()
    for mode in ("average", "ffa", "exact"):
        sent = [only_b(update) if mode == "ffa" else update for update in updates]
        results = [result(tmp_path, client, update) for client, update in zip(CLIENTS, sent, strict=True)]
        digests.add(digest(ServerRound(config_of(mode), 1, arrays).aggregate(results, tmp_path).tensors))
    assert len(digests) == 3
