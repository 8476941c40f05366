"""The server's side of a round: sampling, aggregation, and the clients' statistics made one."""

from collections.abc import Sequence
from dataclasses import replace

from loguru import logger
from pydantic import Field

from zk0.aggregation import adaptive
from zk0.aggregation.server_round import RoundPlan, ServerRound
from zk0.executors import calls
from zk0.executors.process import ProcessExecutor
from zk0.federation.outcomes import Outcomes
from zk0.memory.sampler import phase
from zk0.runs.records import RoundState
from zk0.runs.store import RunStore
from zk0.work.records import ArtifactRef, ClientFailure, ClientResult, Record


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


def server_round(store: RunStore, number: int, before: RoundState) -> ServerRound:
    """One attempt at a round on the server: a new strategy with the state of the round before."""
    return ServerRound(store.config, number, store.path(before.arrays), *store.load_strategy_state(before.server_round))


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
        store.save_strategy_state(number, outcome.strategy_tensors, outcome.strategy_scalars)
        arrays = store.place(number, "global", outcome.tensors)
    logger.info("round {}: {} updates aggregated to {}", number, len(fits.results), arrays.sha256[:12])
    for figure, share in outcome.lora.items():
        logger.info("round {}: LoRA {} is {:.3%} of the average of B A", number, figure, share)
    return Aggregated(arrays=arrays, metrics=outcome.metrics, failures=tuple(outcome.failures), lora=outcome.lora)


def aggregate_statistics(store: RunStore, results: Sequence[ClientResult]) -> ArtifactRef:
    """Make one set of normalisation statistics of the clients' counts and moments, by LeRobot's `aggregate_stats`."""
    files = [str(store.path(result.tensors)) for result in results if result.tensors is not None]
    return store.place(0, "stats", ProcessExecutor(store.config.executor).call(calls.aggregate_statistics, files))
