"""Rounds by Flower's strategies: whatever happens around them, the same bytes."""

import random
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideAdaptiveClipping,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedProx,
    FedYogi,
    Strategy,
)
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

from zk0.aggregation.admission import check_update
from zk0.aggregation.flower import NodeGrid, ensure_task_identity, lazy_record, seeded
from zk0.aggregation.server_round import ServerRound
from zk0.aggregation.state import load_strategy_state, strategy_state
from zk0.aggregation.strategies import make_strategy
from zk0.config import FederationConfig, RunConfig
from zk0.errors import ClientError, QuorumError, StorageError
from zk0.files import atomic
from zk0.work.records import ArtifactRef, ClientFailure, ClientResult

CLIENTS = ("delta", "alpha", "charlie", "bravo", "echo")


def make_config(**federation: Any) -> RunConfig:
    """Five clients, not in alphabetical order."""
    clients = [{"name": name, "repo_id": f"lab/{name}"} for name in CLIENTS]
    return RunConfig.model_validate({"clients": clients, "policy": {"path": "lab/base"}, "federation": federation})


def tensors(seed: int) -> dict[str, NDArray[Any]]:
    """Tensors of one model: a matrix, a vector, a half-precision one, a scalar and a counter."""
    rng = np.random.default_rng(seed)
    return {
        "z.weight": rng.standard_normal((40, 30)).astype(np.float32),
        "a.bias": rng.standard_normal(30).astype(np.float32),
        "half": rng.standard_normal(7).astype(np.float16),
        "scalar": np.array(rng.standard_normal(), np.float32),
        "counter": np.array(3, np.int64),
    }


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    atomic.write_tensors(tmp_path / "global.safetensors", tensors(0))
    return tmp_path / "global.safetensors"


def result(run_dir: Path, client: str, update: dict[str, NDArray[Any]] | None = None, **changes: Any) -> ClientResult:
    """A finished fit, its update on disk."""
    index = CLIENTS.index(client) + 1
    digest = atomic.write_tensors(run_dir / f"{client}.safetensors", tensors(index) if update is None else update)
    values = {
        "key": client,
        "kind": "train",
        "server_round": 1,
        "client": client,
        "tensors": ArtifactRef(path=f"{client}.safetensors", sha256=digest.sha256, size=digest.size),
        "num_examples": 100 * index + 7,
        "metrics": {"loss": 1.0 / index, "steps": 20, "curve": [1.0, 0.5], f"only_{client}": 1.0},
        "duration_s": 1.0,
        "peak_rss_bytes": 1,
        "pid": 1,
    }
    return ClientResult.model_validate(values | changes)


def failure(client: str) -> ClientFailure:
    """A client that ran out of memory."""
    return ClientFailure(client=client, server_round=1, kind="train", cause="out_of_memory", message="killed at 3 GiB")


def digest(values: dict[str, NDArray[Any]]) -> bytes:
    """All bytes, by name."""
    return b"".join(name.encode() + values[name].tobytes() for name in sorted(values))


# -- configure


@pytest.mark.parametrize(("fraction", "minimum", "expected"), [(1.0, 1, 5), (0.5, 1, 2), (0.1, 1, 1), (0.5, 3, 3)])
def test_sampling_is_flowers_and_depends_on_seed_and_round_only(
    arrays: Path, fraction: float, minimum: int, expected: int
) -> None:
    config = make_config(fraction_train=fraction, min_train_clients=minimum)
    plans = [ServerRound(config, server_round, arrays).configure() for server_round in range(1, 9)]
    assert all(len(plan.clients) == expected for plan in plans)
    assert all(plan.clients == [name for name in CLIENTS if name in plan.clients] for plan in plans)
    random.seed(99)
    assert plans == [ServerRound(config, server_round, arrays).configure() for server_round in range(1, 9)]
    if expected < len(CLIENTS):
        assert len({tuple(plan.clients) for plan in plans}) > 1


def test_the_global_generators_are_given_back(arrays: Path, tmp_path: Path) -> None:
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = (random.getstate(), np.random.get_state()[1].tobytes())  # type: ignore[index]  # noqa: NPY002
    config = make_config(fraction_train=0.4)
    plan = ServerRound(config, 1, arrays).configure()
    ServerRound(config, 1, arrays).aggregate([result(tmp_path, client) for client in plan.clients], tmp_path)
    assert before == (random.getstate(), np.random.get_state()[1].tobytes())  # type: ignore[index]  # noqa: NPY002


def test_strategies_of_the_config(arrays: Path) -> None:
    assert type(make_strategy(FederationConfig(), 5)) is FedAvg
    assert ServerRound(make_config(), 1, arrays).configure().proximal_mu == 0.0
    config = make_config(strategy="fedprox", proximal_mu=0.25)
    strategy = make_strategy(config.federation, 5)
    assert type(strategy) is FedProx
    assert strategy.weighted_by_key == "num-examples"
    assert ServerRound(config, 1, arrays).configure().proximal_mu == 0.25


def test_an_identity_set_by_flowers_runtime_is_left_alone(arrays: Path) -> None:
    ServerRound(make_config(), 1, arrays).configure()
    before = TaskIdentity.run_id
    try:
        TaskIdentity.run_id = 4711
        ServerRound(make_config(), 1, arrays).configure()
        assert TaskIdentity.run_id == 4711
    finally:
        TaskIdentity.run_id = before


# -- aggregate


def test_the_mean_weighted_by_examples_in_the_dtypes_of_the_input(arrays: Path, tmp_path: Path) -> None:
    results = [result(tmp_path, client) for client in CLIENTS]
    aggregate = ServerRound(make_config(), 1, arrays).aggregate(results, tmp_path)
    shares = np.array([one.num_examples for one in results]) / sum(one.num_examples for one in results)
    for name, before in tensors(0).items():
        after = aggregate.tensors[name]
        assert (after.dtype, after.shape) == (before.dtype, before.shape)
        mean = sum(share * tensors(index + 1)[name].astype(np.float64) for index, share in enumerate(shares))
        np.testing.assert_allclose(
            after, mean, rtol=5e-3 if name == "half" else 1e-5, atol=1e-3 if name == "half" else 1e-6
        )
    assert aggregate.metrics == {"loss": pytest.approx(sum(s / (i + 1) for i, s in enumerate(shares)))}
    assert (aggregate.strategy_tensors, aggregate.strategy_scalars, aggregate.failures) == ({}, {}, [])


def test_the_order_of_arrival_changes_nothing(arrays: Path, tmp_path: Path) -> None:
    results = [result(tmp_path, client) for client in CLIENTS[:4]]
    failures = [failure("echo")]
    attempt = ServerRound(make_config(), 1, arrays)
    seen = {
        (digest(aggregate.tensors), tuple(aggregate.metrics.items()))
        for order in list(permutations(results))[::5]
        for aggregate in [attempt.aggregate(order, tmp_path, failures)]
    }
    assert len(seen) == 1


def test_the_bytes_are_flowers_own(arrays: Path, tmp_path: Path) -> None:
    """Eager arrays, Flower's instructions, replies in node order: no difference to the lazy ones."""
    results = [result(tmp_path, client) for client in CLIENTS]
    aggregate = ServerRound(make_config(), 1, arrays).aggregate(results, tmp_path)
    strategy = FedAvg()
    messages = sorted(
        strategy.configure_train(1, eager(tensors(0)), ConfigRecord(), NodeGrid(5)),
        key=lambda message: message.metadata.dst_node_id,
    )
    replies = [
        eager_reply(message, one.num_examples, tensors(i + 1))
        for i, (message, one) in enumerate(zip(messages, results, strict=True))
    ]
    record, _ = strategy.aggregate_train(1, replies)
    assert record is not None
    for name in ("z.weight", "a.bias", "half", "scalar"):
        assert record[name].numpy().tobytes() == aggregate.tensors[name].tobytes()


def test_quorum(arrays: Path, tmp_path: Path) -> None:
    config = make_config(min_train_clients=2)
    attempt = ServerRound(config, 3, arrays)
    good = [result(tmp_path, client) for client in ("alpha", "echo")]
    aggregate = attempt.aggregate(good, tmp_path, [failure("bravo"), failure("delta")])
    assert [(one.client, one.cause) for one in aggregate.failures] == [
        ("delta", "out_of_memory"), ("charlie", "lost"), ("bravo", "out_of_memory")
    ]  # fmt: skip
    with pytest.raises(QuorumError) as caught:
        attempt.aggregate(good[:1], tmp_path, [failure("bravo")])
    assert caught.value.exit_code == 3
    for part in (
        "round 3: 1 of 5 clients",
        "min_train_clients is 2",
        "bravo: out_of_memory, killed at 3 GiB",
        "resume",
    ):
        assert part in str(caught.value)


def test_a_client_that_was_not_sampled_is_a_programming_error(arrays: Path, tmp_path: Path) -> None:
    config = make_config(fraction_train=0.2)
    sampled = ServerRound(config, 1, arrays).configure().clients
    stranger = next(name for name in CLIENTS if name not in sampled)
    with pytest.raises(ValueError, match=f"{stranger} was not sampled"):
        ServerRound(config, 1, arrays).aggregate([result(tmp_path, stranger)], tmp_path)


BAD_UPDATES: list[tuple[str, Callable[[dict[str, NDArray[Any]]], object], str]] = [
    ("missing", lambda update: update.pop("half"), "'half' is missing"),
    ("extra", lambda update: update.update(new=np.zeros(1)), "'new' is not one of the global tensors"),
    ("shape", lambda update: update.update(half=np.zeros(8, np.float16)), r"'half' is float16\[8\], not float16\[7\]"),
    ("dtype", lambda update: update.update(half=np.zeros(7)), r"'half' is float64\[7\], not float16\[7\]"),
    ("nan", lambda update: update["z.weight"].__setitem__((1, 1), np.nan), "'z.weight' has values that are not finite"),
    ("inf", lambda update: update["half"].__setitem__(0, np.inf), "'half' has values that are not finite"),
]


@pytest.mark.parametrize(("spoil", "reason"), [case[1:] for case in BAD_UPDATES], ids=[case[0] for case in BAD_UPDATES])
def test_an_update_that_does_not_fit_is_refused_by_name(
    arrays: Path, tmp_path: Path, spoil: Callable[[dict[str, NDArray[Any]]], object], reason: str
) -> None:
    update = tensors(1)
    spoil(update)
    bad = result(tmp_path, "delta", update)
    with pytest.raises(ClientError, match=f"client 'delta', round 1: tensor {reason}") as caught:
        check_update(bad, tmp_path, arrays)
    assert caught.value.cause == "bad_data"
    others = [result(tmp_path, client) for client in CLIENTS[1:]]
    attempt = ServerRound(make_config(), 1, arrays)
    with_bad = attempt.aggregate([bad, *others], tmp_path)
    assert [(one.client, one.cause) for one in with_bad.failures] == [("delta", "bad_data")]
    assert digest(with_bad.tensors) == digest(attempt.aggregate(others, tmp_path).tensors)


def test_nothing_trained_is_refused(arrays: Path, tmp_path: Path) -> None:
    for empty in (result(tmp_path, "alpha", num_examples=0), result(tmp_path, "alpha", tensors=None)):
        with pytest.raises(ClientError, match="nothing was trained"):
            check_update(empty, tmp_path, arrays)


def test_an_update_changed_on_disk_is_a_storage_error(arrays: Path, tmp_path: Path) -> None:
    one = result(tmp_path, "alpha")
    path = tmp_path / "alpha.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(StorageError, match=r"alpha.safetensors: its SHA-256"):
        ServerRound(make_config(), 1, arrays).aggregate([one], tmp_path)
    path.unlink()
    with pytest.raises(StorageError, match=r"alpha.safetensors: cannot be read"):
        ServerRound(make_config(), 1, arrays).aggregate([one], tmp_path)


def test_lazy_array_names_a_file_that_went_away(tmp_path: Path) -> None:
    atomic.write_tensors(tmp_path / "gone", {"w": np.zeros(1, np.float32)})
    array = lazy_record(tmp_path / "gone")["w"]
    (tmp_path / "gone").unlink()
    with pytest.raises(StorageError, match=r"gone: cannot be read"):
        array.numpy()


# -- the strategies' state


def adaptive_clipping() -> Strategy:
    """State in a float and in the inner strategy."""
    return DifferentialPrivacyServerSideAdaptiveClipping(
        FedAdam(), noise_multiplier=0.1, num_sampled_clients=3, target_clipped_quantile=0.5
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: FedAdam(eta=0.1),
        lambda: FedYogi(eta=0.1),
        lambda: FedAvgM(server_learning_rate=0.5, server_momentum=0.9),
        adaptive_clipping,
    ],
    ids=["fedadam", "fedyogi", "fedavgm", "dp-adaptive"],
)
def test_six_rounds_equal_three_saved_and_three(tmp_path: Path, make: Callable[[], Strategy]) -> None:
    whole, _ = rounds(make(), floats(0), range(1, 7))
    half, strategy = rounds(make(), floats(0), range(1, 4))
    saved, scalars = strategy_state(strategy)
    atomic.write_tensors(tmp_path / "state.safetensors", saved)
    atomic.write_json(tmp_path / "state.json", scalars)
    fresh = make()
    load_strategy_state(
        fresh, atomic.read_tensors(tmp_path / "state.safetensors"), atomic.read_json(tmp_path / "state.json")
    )
    resumed, _ = rounds(fresh, half, range(4, 7))
    forgetful, _ = rounds(make(), half, range(4, 7))
    assert digest(resumed) == digest(whole) != digest(forgetful)


def test_a_round_with_state_is_pure(arrays: Path, tmp_path: Path) -> None:
    results = [result(tmp_path, client) for client in CLIENTS]
    config = make_config(strategy="fedadam")
    first = ServerRound(config, 1, arrays).aggregate(results, tmp_path)
    assert {key.split("/")[0] for key in first.strategy_tensors} == {"m_t", "v_t"}
    assert {name: array.dtype for name, array in first.tensors.items()} == {
        name: array.dtype for name, array in tensors(0).items()
    }
    after = tmp_path / "after.safetensors"
    atomic.write_tensors(after, first.tensors)
    second = ServerRound(config, 2, after, first.strategy_tensors, first.strategy_scalars)
    attempts = [second.aggregate(results, tmp_path) for _ in range(2)]
    assert digest(attempts[0].tensors) == digest(attempts[1].tensors)
    assert digest(attempts[0].strategy_tensors) == digest(attempts[1].strategy_tensors)


def floats(seed: int) -> dict[str, NDArray[Any]]:
    """The float32 tensors only."""
    return {name: tensor for name, tensor in sorted(tensors(seed).items()) if tensor.dtype == np.float32}


def eager(values: dict[str, NDArray[Any]]) -> ArrayRecord:
    """Flower's own record of plain arrays."""
    return ArrayRecord({name: Array(values[name]) for name in sorted(values)})


def eager_reply(message: Message, num_examples: int, update: dict[str, NDArray[Any]]) -> Message:
    """A reply as a Flower client would send it."""
    metrics = MetricRecord({"num-examples": num_examples})
    return Message(RecordDict({"arrays": eager(update), "metrics": metrics}), reply_to=message)


def rounds(
    strategy: Strategy, start: dict[str, NDArray[Any]], which: range
) -> tuple[dict[str, NDArray[Any]], Strategy]:
    """Rounds with three nodes whose updates depend on the weights, the round and the node."""
    ensure_task_identity()
    current = start
    for server_round in which:
        with seeded(server_round):
            messages = list(strategy.configure_train(server_round, eager(current), ConfigRecord(), NodeGrid(3)))
            messages.sort(key=lambda message: message.metadata.dst_node_id)
            replies = []
            for message in messages:
                node = message.metadata.dst_node_id
                drift = floats(100 * server_round + node)
                update = {name: np.asarray(current[name] * 0.9 + drift[name], np.float32) for name in current}
                replies.append(eager_reply(message, node, update))
            record, _ = strategy.aggregate_train(server_round, replies)
        assert record is not None
        current = {name: array.numpy().astype(np.float32) for name, array in record.items()}
    return current, strategy
