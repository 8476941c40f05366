"""Flower's own strategies, driven one round at a time: who trains, and what their updates become."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp.strategy import Strategy
from loguru import logger
from numpy.typing import NDArray

from zk0.aggregation import by_piece, carried, lora, privacy
from zk0.aggregation.admission import History
from zk0.aggregation.by_piece import Piece, elementwise
from zk0.aggregation.door import Admitted, Door
from zk0.aggregation.flower import NodeGrid, ensure_task_identity, lacking, lazy_record, seeded, wide_record
from zk0.aggregation.foreign import attributes, forgotten, refuse_strategy
from zk0.aggregation.privacy import Private
from zk0.aggregation.replies import replies, reply_metrics, weights_of
from zk0.aggregation.state import Tensors, load_strategy_state, not_finite
from zk0.aggregation.strategies import BY_DISTANCE, make_strategy, malicious_left, saved_state
from zk0.config import STRATEGY_KEYS, RunConfig, least_updates
from zk0.errors import DivergedError, QuorumError
from zk0.seeding import derive_seed
from zk0.work.records import ClientFailure, ClientResult

_MU_KEY = "proximal-mu"
_Made = tuple[dict[str, NDArray[Any]], MetricRecord | None, tuple[dict[str, NDArray[Any]], dict[str, Any]]]
"""New tensors, mean metrics, and the strategy's state in two halves."""


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
    clipping_norm: float | None = None
    """Largest norm of a change, where the clients clip; else None."""


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
    admission: dict[str, Any] = field(default_factory=dict)
    """Of each client's change the norm and, where it was scaled down, by what; see `Admitted.figures`."""
    history: History = field(default_factory=History)
    """What admission goes on from in the next round."""
    privacy: dict[str, float] = field(default_factory=dict)
    """What was spent, and the bound; see `privacy.figures`; empty without any."""


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
    admission: Mapping[str, Any] = field(default_factory=dict)
    """What admission goes on from, as `History.record` gave it after round r-1."""
    examples: Mapping[str, int] = field(default_factory=dict)
    """Client -> frames that it trains on, as they were counted before the run; empty where nobody did."""

    def configure(self) -> RoundPlan:
        """Let the strategy sample the clients, with the round's seed."""
        strategy, messages = self._configured()
        records = next(iter(messages.values())).content.config_records.values()
        mu = next((record[_MU_KEY] for record in records if _MU_KEY in record), 0.0)
        bound = strategy.clipping_norm if isinstance(strategy, Private) else None
        return RoundPlan(
            list(messages),
            float(mu) if isinstance(mu, float | int) else 0.0,
            clipping_norm=bound if self.config.federation.privacy.side == "client" else None,
        )

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
            DivergedError: what came of them, or the strategy's state, is not finite.
            StorageError: an update's file is missing or not what the fit wrote.
        """
        strategy, messages = self._configured()
        private = strategy if isinstance(strategy, Private) else None
        bound = None if private is None else private.clipping_norm
        door = Door(self.config, self.server_round, self.arrays, self._frozen(), self.examples, bound)
        admitted = door.admit(list(messages), results, run_dir, failures, History.of(self.admission))
        self._check_quorum(strategy, len(messages), list(admitted.failed.values()))
        if private is not None:  # the noise is in proportion to what one of those who are there can do
            private.num_sampled_clients = len(admitted.results)
        with seeded(derive_seed(self.config.seed, self.server_round, "", "aggregation")):
            made = (self._by_piece if elementwise(strategy) else self._at_once)(strategy, messages, admitted, run_dir)
        tensors, metrics, state = made
        before = lazy_record(self.arrays, follow=True)
        tensors |= {name: before[name].numpy() for name in self._frozen()} | self._carried(admitted, run_dir)
        means = {key: float(value) for key, value in (metrics or {}).items() if isinstance(value, float | int)}
        factors, figures = self._adapters(admitted, run_dir)
        self._check_finite(tensors | factors, *state)
        return Aggregate(
            *(tensors | factors, means, *state),
            failures=list(admitted.failed.values()),
            lora=figures,
            admission=admitted.figures(),
            history=admitted.history,
            privacy={} if bound is None else privacy.figures(strategy, bound),
        )

    def _by_piece(
        self, strategy: Strategy, messages: Mapping[str, Message], admitted: Admitted, run_dir: Path
    ) -> _Made:
        """Piece by piece; see `zk0.aggregation.by_piece`."""
        before = lazy_record(self.arrays, self._apart(), follow=True)
        records = admitted.records(run_dir, self.arrays)
        metrics = reply_metrics(admitted.results, self.config.federation)

        def given(piece: Piece) -> list[Message]:
            own = {client: by_piece.part(record, piece) for client, record in records.items()}
            return replies(messages, own, metrics, admitted.failed)

        state = (self.strategy_tensors, self.strategy_scalars)
        made = by_piece.aggregate(strategy, self.server_round, given, before, state, _cast)
        return made.record, made.metrics, (made.tensors, made.scalars)

    def _at_once(self, strategy: Strategy, messages: Mapping[str, Message], admitted: Admitted, run_dir: Path) -> _Made:
        """All tensors in one call, as strategies want it that compare whole updates, wrap others, or are foreign."""
        given = self._replies(messages, admitted, run_dir, private=isinstance(strategy, Private))
        known = attributes(strategy)
        record, metrics = strategy.aggregate_train(self.server_round, given)
        self._warn_of_what_is_forgotten(strategy, known)
        before = lazy_record(self.arrays, follow=True)
        self._check_shapes(record or ArrayRecord(), before)
        tensors = {name: _cast(array.numpy(), np.dtype(before[name].dtype)) for name, array in (record or {}).items()}
        return tensors, metrics, saved_state(strategy, self.config.federation)

    def _replies(
        self, messages: Mapping[str, Message], admitted: Admitted, run_dir: Path, *, private: bool
    ) -> list[Message]:
        """Flower's replies; those of failures are left out where a wrapper would give up the round for one."""
        apart, records = self._apart(), admitted.records(run_dir, self.arrays)
        records = {client: lacking(record, apart) for client, record in records.items()}
        metrics = reply_metrics(admitted.results, self.config.federation)
        if self.config.federation.strategy in BY_DISTANCE:
            records = {client: wide_record(record) for client, record in records.items()}
        if not private:
            return replies(messages, records, metrics, admitted.failed)
        metrics = {client: own | privacy.norm_bit(clipped=admitted.clipped(client)) for client, own in metrics.items()}
        return replies(messages, records, metrics, {})

    def _check_finite(self, tensors: Tensors, state: Tensors, scalars: Mapping[str, Any]) -> None:
        """What is not finite is never committed: no round could go on from it."""
        odd = [f"tensor {name!r}" for name in not_finite(tensors, {})]
        odd += [f"the strategy's state {name!r}" for name in not_finite(state, scalars)]
        if odd:
            raise DivergedError(
                f"round {self.server_round}: {odd[0]} (and {len(odd) - 1} more) would not be finite after "
                f"federation.strategy = {self.config.federation.strategy!r}, though every update is; nothing is "
                "committed; start a run with a lower server_learning_rate or eta, or with another strategy"
            )

    def _warn_of_what_is_forgotten(self, strategy: Strategy, known: Mapping[str, list[Any]]) -> None:
        name = self.config.federation.strategy
        if name not in STRATEGY_KEYS and self.server_round == 1 and (lost := forgotten(strategy, known)):
            logger.warning(
                "federation.strategy = {!r}: a round changes its {}, which is not kept: every round begins with a new "
                "strategy; give it state_dict() and load_state_dict(state) if it is to know that in the next",
                *(name, ", ".join(lost)),
            )

    def _check_shapes(self, record: ArrayRecord, before: ArrayRecord) -> None:
        """A strategy must give every tensor that it is given, and nothing else."""
        wanted = {name: tuple(before[name].shape) for name in before.keys() - self._apart()}
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
        """Names of the global tensors that no client sends; see `carried.unsent`."""
        return carried.unsent(lazy_record(self.arrays, follow=True), self.config)

    def _apart(self) -> frozenset[str]:
        """Names of those that no strategy is given: the frozen ones, and what no gradient made."""
        states = filter(carried.is_state, lazy_record(self.arrays, follow=True))
        return self._frozen() | frozenset(states)

    def _carried(self, admitted: Admitted, run_dir: Path) -> Tensors:
        """What becomes of the latter; holds one tensor of all clients at a time."""
        names = sorted(self._apart() - self._frozen())
        weights = weights_of(admitted.results.values(), self.config.federation)
        updates = list(admitted.records(run_dir, self.arrays).values()) if names else []
        strategy = self.config.federation.strategy
        return {name: carried.combined([own[name].numpy() for own in updates], weights, strategy) for name in names}

    def _adapters(self, admitted: Admitted, run_dir: Path) -> tuple[Tensors, dict[str, float]]:
        """The factors that stand in for those that the strategy averaged apart, and `Aggregate.lora`.

        Holds one adapter's factors of all clients at a time.
        """
        names = lora.pairs(lazy_record(self.arrays, follow=True)) if self.config.peft.enabled else []
        if not names or self._frozen() or self.config.federation.privacy.active:  # figures of what is private
            return {}, {}
        weights = weights_of(admitted.results.values(), self.config.federation)
        updates = list(admitted.records(run_dir, self.arrays).values())
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
            record = ArrayRecord()
            if not elementwise(strategy):  # else each tensor's strategy is given its own part
                load_strategy_state(strategy, self.strategy_tensors, self.strategy_scalars)
                record = lazy_record(self.arrays, self._apart(), follow=True)
            grid = NodeGrid(len(names))
            messages = list(strategy.configure_train(self.server_round, record, ConfigRecord(), grid))
        messages.sort(key=lambda message: message.metadata.dst_node_id)
        nodes = [message.metadata.dst_node_id for message in messages]
        if not nodes or len({*nodes} & {*range(1, len(names) + 1)}) < len(nodes):
            refuse_strategy(
                self.config.federation.strategy,
                f"configure_train chooses the nodes {nodes} in round {self.server_round}; choose at least one of "
                "grid.get_node_ids(), and none twice",
            )
        return strategy, {names[node - 1]: message for node, message in zip(nodes, messages, strict=True)}

    def _check_quorum(self, strategy: Strategy, sampled: int, failed: list[ClientFailure]) -> None:
        """See that there are as many updates as the config asks for, and as the strategy needs."""
        federation = self.config.federation
        needed = least_updates(federation.strategy, malicious_left(strategy, len(failed)))
        if sampled - len(failed) >= max(federation.min_train_clients, needed):
            return
        asked = f"federation.min_train_clients is {federation.min_train_clients}"
        if needed > federation.min_train_clients:
            asked = f"federation.strategy = {federation.strategy!r} needs {needed}"
        causes = "; ".join(f"{failure.client}: {failure.cause}, {failure.message}" for failure in failed)
        raise QuorumError(
            f"round {self.server_round}: {sampled - len(failed)} of {sampled} clients gave an update and {asked}; "
            f"failed: {causes}; "
            "remove the cause and resume the run (finished fits are kept), or start a run with a lower quorum"
        )


def _cast(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Back to the input's dtype: FedAdam gives float64 under numpy 2, and any strategy for integers."""
    rounded = np.rint(array) if dtype.kind in "biu" else array
    return rounded.astype(dtype, copy=False)
