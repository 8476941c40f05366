"""Flower's own strategies, driven one round at a time: who trains, and what their updates become."""

import math
import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedProx, FedYogi, Strategy
from flwr.serverapp.strategy.fedopt import FedOpt
from flwr.supercore.task_identity import TaskIdentity
from loguru import logger
from numpy.typing import NDArray
from safetensors import safe_open

from zk0 import atomic, foreign, lora
from zk0.config import STRATEGY_KEYS, FederationConfig, RunConfig
from zk0.errors import ClientError, QuorumError, StorageError
from zk0.records import ClientFailure, ClientResult
from zk0.seeding import derive_seed

WEIGHT_KEY = "num-examples"
_MU_KEY = "proximal-mu"
_STATE = ("m_t", "v_t", "momentum_vector", "current_arrays", "clipping_norm")
"""What Flower's strategies keep between rounds; `strategy` besides, the inner one of differential privacy."""

_STRATEGIES: dict[str, type[FedAvg]] = {
    "fedavg": FedAvg,
    "fedprox": FedProx,
    "fedavgm": FedAvgM,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
}
"""federation.strategy -> Flower's class; its own arguments are named as the keys in STRATEGY_KEYS."""

_OWN_DEFAULTS: dict[str, dict[str, float]] = {"fedavgm": {"server_momentum": 0.9}}
"""Where Flower's own default has no effect: FedAvgM with momentum 0 is FedAvg. 0.9 is what Reddi et al.
(arXiv:2003.00295) compare with."""


@dataclass(frozen=True)
class RoundPlan:
    """What the strategy's configure step decided, and the adaptive schedules."""

    clients: list[str]
    """Names of the clients that train in the round, in config order."""
    proximal_mu: float
    """FedProx's mu, 0 for every other strategy."""
    lr_scale: float = 1.0
    """What the learning rate is multiplied by."""
    steps: Mapping[str, int] = field(default_factory=dict)
    """Client -> local steps, where they are not what the config says."""


@dataclass(frozen=True)
class Aggregate:
    """What the strategy's aggregate step made of a round's updates."""

    tensors: dict[str, NDArray[Any]]
    """The new global tensors: name -> array, shapes and dtypes as before the round."""
    metrics: dict[str, float]
    """Flower's weighted mean of the clients' metrics."""
    strategy_tensors: dict[str, NDArray[Any]]
    """The strategy's state after the round; see `strategy_state`."""
    strategy_scalars: dict[str, Any]
    """The other half of it."""
    failures: list[ClientFailure]
    """Who gave no update that could be used, in config order, those whose update was refused here included."""
    lora: dict[str, float] = field(default_factory=dict)
    """Of LoRA adapters, relative to the Frobenius norm of the average of B A over all of them: `gap`, the error of
    averaging A and B apart, and `truncation`, what peft.aggregation = 'exact' cut off; empty where there are none."""


@dataclass(frozen=True)
class ServerRound:
    """One round as a pure function: whatever is asked, and how often, a new strategy starts from round r-1's state.

    A strategy object changes while it aggregates; an attempt that failed half-way must leave nothing of itself behind.
    """

    config: RunConfig
    """The run's config."""
    server_round: int
    """The round r, from 1."""
    arrays: Path
    """Safetensors file of the global tensors after round r-1."""
    strategy_tensors: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """The strategy's state after round r-1."""
    strategy_scalars: Mapping[str, Any] = field(default_factory=dict)
    """The other half of it."""

    def configure(self) -> RoundPlan:
        """Let the strategy sample the clients, with the round's seed."""
        _, messages = self._configured()
        settings = next(iter(messages.values())).content.config_records["config"]
        mu = settings.get(_MU_KEY, 0.0)
        return RoundPlan(list(messages), float(mu) if isinstance(mu, float | int) else 0.0)

    def aggregate(
        self, results: Iterable[ClientResult], run_dir: Path, failures: Iterable[ClientFailure] = ()
    ) -> Aggregate:
        """Let the strategy aggregate the clients' updates, in config order whatever the order given.

        An update that does not fit is refused with a warning and counts as a failure, and so does a sampled client
        that is in neither list.

        Args:
            results: finished fits of sampled clients.
            run_dir: the run directory, which the results' paths are relative to.
            failures: sampled clients that gave none.

        Raises:
            QuorumError: fewer than federation.min_train_clients gave an update that can be used.
            StorageError: an update's file is missing or not what the fit wrote.
        """
        strategy, messages = self._configured()
        valid, failed = self._sort_out(list(messages), results, run_dir, failures)
        if len(valid) < self.config.federation.min_train_clients:
            self._raise_quorum(len(messages), list(failed.values()))
        replies = self._replies(messages, valid, failed, run_dir)
        with _seeded(derive_seed(self.config.seed, self.server_round, "", "aggregation")):
            record, metrics = strategy.aggregate_train(self.server_round, replies)
        assert record is not None  # Flower gives None only where no reply is valid
        assert metrics is not None
        before = _lazy_record(self.arrays)
        tensors = {name: _cast(array.numpy(), np.dtype(before[name].dtype)) for name, array in record.items()}
        tensors |= {name: before[name].numpy() for name in self._frozen()}
        means = {key: float(value) for key, value in metrics.items() if isinstance(value, float | int)}
        factors, figures = self._adapters(valid.values(), run_dir)
        return Aggregate(
            tensors | factors, means, *strategy_state(strategy), failures=list(failed.values()), lora=figures
        )

    def _frozen(self) -> frozenset[str]:
        """Names of the global tensors that no client trains or sends: FFA-LoRA's A."""
        if self.config.peft.aggregation != "ffa":
            return frozenset()
        return frozenset(name for name in _lazy_record(self.arrays) if lora.is_factor_a(name))

    def _adapters(
        self, results: Collection[ClientResult], run_dir: Path
    ) -> tuple[dict[str, NDArray[Any]], dict[str, float]]:
        """The factors that stand in for those that the strategy averaged apart, and `Aggregate.lora`.

        Holds one adapter's factors of all clients at a time.
        """
        names = lora.pairs(_lazy_record(self.arrays)) if self.config.peft.enabled else []
        if not names or self._frozen():
            return {}, {}
        counts = [_weight(result, self.config.federation) for result in results]
        weights = [count / sum(counts) for count in counts]
        updates = [_lazy_record(run_dir / result.tensors.path) for result in results if result.tensors is not None]
        tensors: dict[str, NDArray[Any]] = {}
        norms: dict[str, list[float]] = {"average": [], "gap": [], "truncation": []}
        for b, a in names:
            factors = [(update[b].numpy(), update[a].numpy()) for update in updates]
            norms["average"].append(lora.norm(factors, weights))
            norms["gap"].append(lora.gap(factors, weights))
            if self.config.peft.aggregation == "exact":
                refactored = lora.refactor(factors, weights)
                tensors |= {b: refactored.b, a: refactored.a}
                norms["truncation"].append(refactored.dropped)
        whole = math.hypot(*norms.pop("average"))
        return tensors, {key: math.hypot(*own) / whole if whole else 0.0 for key, own in norms.items() if own}

    def _configured(self) -> tuple[Strategy, dict[str, Message]]:
        """A new strategy with round r-1's state, and its instruction for each sampled client, in config order."""
        _ensure_task_identity()
        names = [client.name for client in self.config.clients]
        strategy = make_strategy(self.config.federation, len(names))
        load_strategy_state(strategy, self.strategy_tensors, self.strategy_scalars)
        with _seeded(derive_seed(self.config.seed, self.server_round, "", "sampling")):
            messages = list(
                strategy.configure_train(
                    self.server_round, _lazy_record(self.arrays, self._frozen()), ConfigRecord(), NodeGrid(len(names))
                )
            )
        messages.sort(key=lambda message: message.metadata.dst_node_id)
        return strategy, {names[message.metadata.dst_node_id - 1]: message for message in messages}

    def _sort_out(
        self, clients: Sequence[str], results: Iterable[ClientResult], run_dir: Path, failures: Iterable[ClientFailure]
    ) -> tuple[dict[str, ClientResult], dict[str, ClientFailure]]:
        """Client -> usable result, and client -> failure; every sampled client is in one of them, in config order."""
        given = {result.client: result for result in results}
        known = {failure.client: failure for failure in failures}
        if strangers := sorted((given.keys() | known.keys()) - set(clients)):
            raise ValueError(f"round {self.server_round}: {', '.join(strangers)} was not sampled")
        valid: dict[str, ClientResult] = {}
        failed: dict[str, ClientFailure] = {}
        frozen = self._frozen()
        for client in clients:
            try:
                if client in given:
                    check_update(given[client], run_dir, self.arrays, frozen)
                    valid[client] = given[client]
                else:
                    failed[client] = known.get(client) or self._failure(client, "lost", "gave neither update nor cause")
            except ClientError as error:
                logger.warning("Round {}: update refused: {}", self.server_round, error)
                failed[client] = self._failure(client, error.cause, str(error))
        return valid, failed

    def _failure(self, client: str, cause: Any, message: str) -> ClientFailure:
        return ClientFailure(client=client, server_round=self.server_round, kind="train", cause=cause, message=message)

    def _raise_quorum(self, sampled: int, failed: list[ClientFailure]) -> NoReturn:
        causes = "; ".join(f"{failure.client}: {failure.cause}, {failure.message}" for failure in failed)
        raise QuorumError(
            f"round {self.server_round}: {sampled - len(failed)} of {sampled} clients gave an update and "
            f"federation.min_train_clients is {self.config.federation.min_train_clients}; failed: {causes}; "
            "remove the cause and resume the run (finished fits are kept), or start a run with a lower quorum"
        )

    def _replies(
        self,
        messages: Mapping[str, Message],
        valid: Mapping[str, ClientResult],
        failed: Mapping[str, ClientFailure],
        run_dir: Path,
    ) -> list[Message]:
        """Flower's replies in config order, which the float sums depend on."""
        keys = _common_metrics(list(valid.values()))
        replies = []
        for client, message in messages.items():
            content: RecordDict | Error
            if client in valid:
                weight = _weight(valid[client], self.config.federation)
                content = _reply_content(valid[client], weight, run_dir, keys)
            else:
                content = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, failed[client].message)
            replies.append(Message(content, reply_to=message))
        return replies


class NodeGrid(Grid):
    """The clients as Flower's nodes 1..N in config order: all that a strategy's configure step asks of a grid."""

    def __init__(self, num_nodes: int) -> None:
        """Name the nodes."""
        self._num_nodes = num_nodes

    def get_node_ids(self) -> Iterable[int]:
        """1..N."""
        return range(1, self._num_nodes + 1)

    def _unused(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError("work is sent to clients by zk0's executors, not through Flower's grid")

    set_run = create_message = push_messages = pull_messages = send_and_receive = _unused
    run = property(_unused)


class LazyArray(Array):
    """A tensor that stays in its safetensors file: a strategy then holds one client's tensor at a time, not all."""

    def __init__(self, path: Path, name: str, dtype: str, shape: tuple[int, ...]) -> None:
        """Say where it lies. Past Array's own __init__ and __setattr__, which want the bytes."""
        self.__dict__.update(path=path, name=name, dtype=dtype, shape=shape, stype="numpy.ndarray", data=b"")

    def numpy(self) -> NDArray[Any]:
        """Read the tensor."""
        path, name = self.__dict__["path"], self.__dict__["name"]
        with _opened(path) as file:
            tensor: NDArray[Any] = file.get_tensor(name)
        return tensor


def make_strategy(federation: FederationConfig, num_clients: int) -> FedAvg:
    """Make the strategy that the config names, new.

    Flower samples max(int(num_clients * fraction_train), min_train_nodes) clients; with the quorum as the minimum,
    a round never samples fewer clients than it needs.
    """
    common: dict[str, Any] = {
        "fraction_train": federation.fraction_train,
        "min_train_nodes": federation.min_train_clients,
        "min_available_nodes": num_clients,
        "weighted_by_key": WEIGHT_KEY,
    }
    name = federation.strategy
    given = {key: value for key in STRATEGY_KEYS[name] if (value := getattr(federation, key)) is not None}
    return _STRATEGIES[name](**common, **_OWN_DEFAULTS.get(name, {}) | given)


def strategy_state(strategy: Strategy, prefix: str = "") -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """What a strategy must be given back to go on bit-exactly.

    Returns:
        Tensors by `<attribute>/<name>`, and per attribute its kind and the names in order (or the float, as hex).
    """
    tensors: dict[str, NDArray[Any]] = {}
    scalars: dict[str, Any] = {}
    for attribute in _STATE:
        value = getattr(strategy, attribute, None)
        key = prefix + attribute
        if value is None or (attribute == "current_arrays" and isinstance(strategy, FedOpt)):
            continue  # FedOpt's are set anew by its configure step
        if isinstance(value, float):
            scalars[key] = ["float", value.hex()]
            continue
        items = _as_dict(value)
        scalars[key] = [_kind(value), list(items)]
        tensors |= {f"{key}/{name}": array for name, array in items.items()}
    if isinstance(inner := getattr(strategy, "strategy", None), Strategy):
        inner_tensors, inner_scalars = strategy_state(inner, f"{prefix}strategy.")
        tensors, scalars = tensors | inner_tensors, scalars | inner_scalars
    return tensors, scalars


def load_strategy_state(
    strategy: Strategy, tensors: Mapping[str, NDArray[Any]], scalars: Mapping[str, Any], prefix: str = ""
) -> None:
    """Give a new strategy the state that `strategy_state` took."""
    for attribute in _STATE:
        key = prefix + attribute
        if key not in scalars:
            continue
        kind, names = scalars[key]
        if kind == "float":
            setattr(strategy, attribute, float.fromhex(names))
            continue
        arrays = {name: tensors[f"{key}/{name}"] for name in names}
        setattr(strategy, attribute, _from_dict(kind, arrays))
    if isinstance(inner := getattr(strategy, "strategy", None), Strategy):
        load_strategy_state(inner, tensors, scalars, f"{prefix}strategy.")


def check_update(result: ClientResult, run_dir: Path, arrays: Path, frozen: Collection[str] = ()) -> None:
    """Refuse an update that must not be aggregated.

    Args:
        result: the finished fit.
        run_dir: the run directory.
        arrays: safetensors file of the global tensors that the fit started from.
        frozen: names of those that no client sends.

    Raises:
        ClientError: bad_data: no examples, no tensors, other names, shapes or dtypes, or values that are not finite;
            names the first tensor.
        StorageError: the update's file is missing or not what the fit wrote.
    """
    if result.tensors is None or result.num_examples < 1:
        _refuse(result, f"num_examples = {result.num_examples}, tensors = {result.tensors}: nothing was trained")
    path = run_dir / result.tensors.path
    atomic.verify(path, result.tensors.sha256, result.tensors.size)
    there = _lazy_record(arrays, frozen)
    try:
        here = _lazy_record(path)
    except StorageError as error:  # just what the fit wrote: no damage, and the same whenever it is read
        _refuse(result, str(error))
    if odd := sorted(there.keys() ^ here.keys()):
        fault = "missing" if odd[0] in there else "frozen" if odd[0] in frozen else "not one of the global tensors"
        _refuse(result, f"tensor {odd[0]!r} is {fault}")
    for name, array in here.items():
        expected = (there[name].dtype, there[name].shape)
        if (array.dtype, array.shape) != expected:
            _refuse(
                result, f"tensor {name!r} is {array.dtype}{list(array.shape)}, not {expected[0]}{list(expected[1])}"
            )
        if not np.isfinite(array.numpy()).all():
            _refuse(result, f"tensor {name!r} has values that are not finite; lower training.lr or check its data")


def _refuse(result: ClientResult, reason: str) -> NoReturn:
    raise ClientError("bad_data", f"client {result.client!r}, round {result.server_round}: {reason}")


def _ensure_task_identity() -> None:
    """Let Messages be made outside Flower's runtime.

    Since 1.38 a Message asks the private TaskIdentity of its process who sends it, and raises where no runtime has
    set it; no strategy reads it. Inside a ServerApp it is set and left alone. Hence the pin and
    tests/unit/test_flower_contract.py.
    """
    try:
        _ = (TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id)
    except RuntimeError:
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Flower draws from the global generators: seed them, and give them back as they were."""
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - the one Flower draws from
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file whose tensors are read one by one; StorageError where it cannot be."""
    with atomic.storage_errors(path, "read"), foreign.opened(path) as name, safe_open(name, framework="numpy") as file:
        yield file


def _lazy_record(path: Path, without: Collection[str] = ()) -> ArrayRecord:
    """A record of LazyArrays, by sorted name; filled item by item, as ArrayRecord(dict) would copy them to Arrays."""
    record = ArrayRecord()
    with _opened(path) as file:
        for name in sorted({*file.keys()} - {*without}):
            view = file.get_slice(name)
            record[name] = LazyArray(path, name, _numpy_dtype(view.get_dtype()), tuple(view.get_shape()))
    return record


def _numpy_dtype(code: str) -> str:
    """From safetensors' F32 to numpy's float32; unknown ones (BF16) stay as they are and are refused when read."""
    return {short: name for name, short in atomic.DTYPES.items()}.get(code, code)


def _common_metrics(results: Sequence[ClientResult]) -> list[str]:
    """Metrics that are plain floats with every client: Flower wants the same keys in all replies."""
    keys = [{key for key, value in result.metrics.items() if isinstance(value, float)} for result in results]
    return sorted(set.intersection(*keys) - {WEIGHT_KEY})


def _weight(result: ClientResult, federation: FederationConfig) -> int:
    """What a client counts in the average."""
    return result.num_examples if federation.weighting == "examples" else 1


def _reply_content(result: ClientResult, weight: int, run_dir: Path, keys: Iterable[str]) -> RecordDict:
    assert result.tensors is not None  # check_update saw to it
    metrics = MetricRecord({WEIGHT_KEY: weight, **{key: float(result.metrics[key]) for key in keys}})
    return RecordDict({"arrays": _lazy_record(run_dir / result.tensors.path), "metrics": metrics})


def _cast(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Back to the input's dtype: FedAdam gives float64 under numpy 2, and any strategy for integers."""
    rounded = np.rint(array) if dtype.kind in "biu" else array
    return rounded.astype(dtype, copy=False)


def _kind(value: Any) -> str:
    return "record" if isinstance(value, ArrayRecord) else type(value).__name__


def _as_dict(value: Any) -> dict[str, NDArray[Any]]:
    if isinstance(value, ArrayRecord):
        return {name: array.numpy() for name, array in value.items()}
    items = value.items() if isinstance(value, dict) else ((str(index), array) for index, array in enumerate(value))
    return {name: np.asarray(array) for name, array in items}  # arithmetic makes numbers of arrays without axes


def _from_dict(kind: str, arrays: dict[str, NDArray[Any]]) -> Any:
    if kind == "record":
        return ArrayRecord({name: Array(array) for name, array in arrays.items()})
    return arrays if kind == "dict" else list(arrays.values())
