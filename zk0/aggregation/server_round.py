"""Flower's own strategies, driven one round at a time: who trains, and what their updates become."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp.strategy import Strategy
from loguru import logger
from numpy.typing import NDArray

from zk0.aggregation import lora
from zk0.aggregation.admission import check_update
from zk0.aggregation.flower import WEIGHT_KEY, NodeGrid, ensure_task_identity, lazy_record, seeded
from zk0.aggregation.foreign import attributes, forgotten, refuse_strategy
from zk0.aggregation.state import load_strategy_state
from zk0.aggregation.strategies import make_strategy, saved_state
from zk0.config import STRATEGY_KEYS, FederationConfig, RunConfig
from zk0.errors import ClientError, QuorumError
from zk0.seeding import derive_seed
from zk0.work.records import ClientFailure, ClientResult

_MU_KEY = "proximal-mu"


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
        records = next(iter(messages.values())).content.config_records.values()
        mu = next((record[_MU_KEY] for record in records if _MU_KEY in record), 0.0)
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
        with seeded(derive_seed(self.config.seed, self.server_round, "", "aggregation")):
            known = attributes(strategy)
            record, metrics = strategy.aggregate_train(self.server_round, replies)
        self._warn_of_what_is_forgotten(strategy, known)
        before = lazy_record(self.arrays)
        self._check_shapes(record or ArrayRecord(), before)
        tensors = {name: _cast(array.numpy(), np.dtype(before[name].dtype)) for name, array in (record or {}).items()}
        tensors |= {name: before[name].numpy() for name in self._frozen()}
        means = {key: float(value) for key, value in (metrics or {}).items() if isinstance(value, float | int)}
        factors, figures = self._adapters(valid.values(), run_dir)
        state = saved_state(strategy, self.config.federation)
        return Aggregate(tensors | factors, means, *state, failures=list(failed.values()), lora=figures)

    def _warn_of_what_is_forgotten(self, strategy: Strategy, known: Mapping[str, list[Any]]) -> None:
        name = self.config.federation.strategy
        if name not in STRATEGY_KEYS and self.server_round == 1 and (lost := forgotten(strategy, known)):
            logger.warning(
                "federation.strategy = {!r}: a round changes its {}, which is not kept: every round begins with a new "
                "strategy; give it state_dict() and load_state_dict(state) if it is to know that in the next",
                *(name, ", ".join(lost)),
            )

    def _check_shapes(self, record: ArrayRecord, before: ArrayRecord) -> None:
        """A strategy must give every tensor that clients send, and nothing else."""
        wanted = {name: tuple(before[name].shape) for name in before.keys() - self._frozen()}
        given = {name: tuple(array.shape) for name, array in record.items()}
        for name in sorted(wanted.keys() | given.keys()):
            here, there = (f"of shape {group[name]}" if name in group else "missing" for group in (given, wanted))
            if here != there:
                refuse_strategy(
                    self.config.federation.strategy,
                    f"in what aggregate_train gives in round {self.server_round}, {name!r} is {here}; among the global "
                    f"tensors it is {there}; return an ArrayRecord of the same names and shapes",
                )

    def _frozen(self) -> frozenset[str]:
        """Names of the global tensors that no client trains or sends: FFA-LoRA's A."""
        if self.config.peft.aggregation != "ffa":
            return frozenset()
        return frozenset(name for name in lazy_record(self.arrays) if lora.is_factor_a(name))

    def _adapters(
        self, results: Collection[ClientResult], run_dir: Path
    ) -> tuple[dict[str, NDArray[Any]], dict[str, float]]:
        """The factors that stand in for those that the strategy averaged apart, and `Aggregate.lora`.

        Holds one adapter's factors of all clients at a time.
        """
        names = lora.pairs(lazy_record(self.arrays)) if self.config.peft.enabled else []
        if not names or self._frozen():
            return {}, {}
        counts = [_weight(result, self.config.federation) for result in results]
        weights = [count / sum(counts) for count in counts]
        updates = [lazy_record(run_dir / result.tensors.path) for result in results if result.tensors is not None]
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
        ensure_task_identity()
        names = [client.name for client in self.config.clients]
        with seeded(derive_seed(self.config.seed, self.server_round, "", "sampling")):
            strategy = make_strategy(self.config.federation, len(names))
            load_strategy_state(strategy, self.strategy_tensors, self.strategy_scalars)
            messages = list(
                strategy.configure_train(
                    self.server_round, lazy_record(self.arrays, self._frozen()), ConfigRecord(), NodeGrid(len(names))
                )
            )
        messages.sort(key=lambda message: message.metadata.dst_node_id)
        nodes = [message.metadata.dst_node_id for message in messages]
        if not nodes or len({*nodes} & {*range(1, len(names) + 1)}) < len(nodes):
            refuse_strategy(
                self.config.federation.strategy,
                f"configure_train chooses the nodes {nodes} in round {self.server_round}; choose at least one of "
                "grid.get_node_ids(), and none twice",
            )
        return strategy, {names[node - 1]: message for node, message in zip(nodes, messages, strict=True)}

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
    return RecordDict({"arrays": lazy_record(run_dir / result.tensors.path), "metrics": metrics})


def _cast(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Back to the input's dtype: FedAdam gives float64 under numpy 2, and any strategy for integers."""
    rounded = np.rint(array) if dtype.kind in "biu" else array
    return rounded.astype(dtype, copy=False)
