"""The server's side of a round: sampling, aggregation, and the clients' statistics made one."""

from dataclasses import replace
from typing import Any

from loguru import logger
from pydantic import Field

from zk0.aggregation import adaptive
from zk0.aggregation.admission import History
from zk0.aggregation.server_round import RoundPlan, ServerRound
from zk0.aggregation.statistics import refused
from zk0.errors import QuorumError
from zk0.executors import calls
from zk0.executors.process import ProcessExecutor
from zk0.federation.outcomes import Outcomes
from zk0.memory.sampler import phase
from zk0.runs import counted
from zk0.runs.records import RoundState
from zk0.runs.store import RunStore
from zk0.work import quarantine
from zk0.work.records import ArtifactRef, ClientFailure, Record

ADMISSION = "admission"
"""Key in strategy.json, beside the strategy's own, of what admission goes on from."""


class Aggregated(Record):
    """What aggregation left in the run directory, and what it told."""

    arrays: ArtifactRef
    """The new global tensors, durable but not committed yet."""
    metrics: dict[str, float]
    """The clients' training metrics, averaged by the strategy with weights by examples."""
    failures: tuple[ClientFailure, ...] = ()
    """Sampled clients without a usable update, those whose update was refused here included."""
    lora: dict[str, float] = Field(default_factory=dict)
    """What averaging adapters costs; see `zk0.aggregation.server_round.Aggregate.lora`."""
    admission: dict[str, Any] = Field(default_factory=dict)
    """Norms of the clients' changes; see `zk0.aggregation.server_round.Aggregate.admission`."""
    privacy: dict[str, float] = Field(default_factory=dict)
    """What differential privacy has spent; see `zk0.aggregation.server_round.Aggregate.privacy`."""


class AggregatedStatistics(Record):
    """One set of statistics of the clients', and whose were refused."""

    stats: ArtifactRef
    """Durable but not committed yet."""
    failures: tuple[ClientFailure, ...] = ()
    """Whose were refused: their data counts in no normalisation."""


def server_round(store: RunStore, number: int, before: RoundState) -> ServerRound:
    """One attempt at a round on the server: a new strategy with the state of the round before."""
    tensors, scalars = store.load_strategy_state(before.server_round)
    admission = scalars.pop(ADMISSION, {})
    known = counted.read(store.folder)
    return ServerRound(store.config, number, store.path(before.arrays), tensors, scalars, admission, known)


def sample(store: RunStore, number: int, before: RoundState) -> RoundPlan:
    """Choose the round's clients, by the strategy's own sampling, and let the adaptive schedules decide."""
    with phase("sample"):
        plan = server_round(store, number, before).configure()
    logger.info("round {}: {}", number, ", ".join(plan.clients))
    return adapted(store, number, plan) if adaptive.active(store.config.adaptive) else plan


def adapted(store: RunStore, number: int, plan: RoundPlan) -> RoundPlan:
    """The plan with what the adaptive schedules decide for the round, which the log says."""
    decision = adaptive.decide(store.config, store.read_metrics(), number)
    logger.info(
        "round {}: adaptive: learning rate x {:g}, mu {:g}, steps {}",
        *(number, decision.lr_scale, decision.proximal_mu, dict(decision.steps)),
    )
    for change in decision.changes:
        logger.info("round {}: adaptive: {}", number, change)
    steps = {name: n for name, n in decision.steps.items() if n != store.config.training_of(name).steps}
    return replace(plan, proximal_mu=decision.proximal_mu, lr_scale=decision.lr_scale, steps=steps)


def aggregate(store: RunStore, number: int, before: RoundState, fits: Outcomes) -> Aggregated:
    """Aggregate the clients' updates by Flower's strategy.

    Raises:
        QuorumError: too few updates.
    """
    with phase("aggregate"):
        outcome = server_round(store, number, before).aggregate(fits.results, store.folder, fits.failures)
        _quarantine(store, number, outcome.history)
        scalars = {**outcome.strategy_scalars, ADMISSION: outcome.history.record()}
        store.save_strategy_state(number, outcome.strategy_tensors, scalars)
        arrays = store.place(number, "global", outcome.tensors)
    logger.info("round {}: {} updates aggregated to {}", number, len(fits.results), arrays.sha256[:12])
    for figure, share in outcome.lora.items():
        logger.info("round {}: LoRA {} is {:.3%} of the average of B A", number, figure, share)
    if "epsilon" in outcome.privacy:
        spent = outcome.privacy
        logger.info("round {}: epsilon {:.4g} spent at delta {:g}", number, spent["epsilon"], spent["delta"])
    return Aggregated(
        arrays=arrays,
        metrics=outcome.metrics,
        failures=tuple(outcome.failures),
        lora=outcome.lora,
        admission=outcome.admission,
        privacy=outcome.privacy,
    )


def _quarantine(store: RunStore, number: int, history: History) -> None:
    """Have those sit out who were refused too often; written before the commit, and the same when it is done again."""
    after = store.config.federation.admission.quarantine_after
    for client, reasons in history.refused.items():
        known = quarantine.read(store.folder, client)
        if after and len(reasons) >= after and (known is None or known.server_round >= number):
            quarantine.put(store.folder, client, number, reasons)
            logger.warning("{} is quarantined: refused in {} rounds running", client, len(reasons))


def aggregate_statistics(store: RunStore, statistics: Outcomes) -> AggregatedStatistics:
    """Make one set of normalisation statistics of the clients' counts and moments, by LeRobot's `aggregate_stats`.

    Args:
        store: the run.
        statistics: what the clients gave; whoever gave none that can be used counts in no normalisation.

    Raises:
        QuorumError: too few clients gave some that can be used.
    """
    files = {result.client: store.path(result.tensors) for result in statistics.results if result.tensors is not None}
    why = {result.client: "there are no statistics" for result in statistics.results if result.client not in files}
    why |= refused(files, counted.read(store.folder))
    for client, reason in why.items():
        logger.warning("statistics of {} refused: {}", client, reason)
    usable = [str(path) for client, path in files.items() if client not in why]
    asked = len(statistics.results) + len(statistics.failures)
    if len(usable) < min(asked, store.config.federation.min_train_clients):
        told = why | {failure.client: failure.message for failure in statistics.failures}
        causes = "; ".join(f"{client}: {reason}" for client, reason in told.items())
        raise QuorumError(
            f"{len(usable)} of {asked} clients gave statistics that can be used and federation.min_train_clients "
            f"is {store.config.federation.min_train_clients}; refused: {causes}; remove the cause and resume the run"
        )
    stats = store.place(0, "stats", ProcessExecutor(store.config.executor).call(calls.aggregate_statistics, usable))
    failures = [
        ClientFailure(client=client, server_round=0, kind="statistics", cause="bad_data", message=reason)
        for client, reason in why.items()
    ]
    return AggregatedStatistics(stats=stats, failures=tuple(failures))
