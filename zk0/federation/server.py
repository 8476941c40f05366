"""The server's side of a round."""

from dataclasses import replace

from loguru import logger
from pydantic import Field

from zk0.aggregation import adaptive
from zk0.aggregation.server_round import RoundPlan, ServerRound
from zk0.runs.store import RunStore
from zk0.work.records import ArtifactRef, ClientFailure, Record


class Aggregated(Record):
    """What aggregation left in the run directory, and what it told."""

    arrays: ArtifactRef
    """The new global tensors, durable but not committed yet."""
    metrics: dict[str, float]
    """The clients' training metrics, averaged by the strategy with weights by examples."""
    failures: tuple[ClientFailure, ...] = ()
    """Sampled clients without a usable update, those whose update was refused here included."""
    lora: dict[str, float] = Field(default_factory=dict)
    """What averaging adapters costs; see `zk0.aggregation.Aggregate.lora`."""


def server_round(store: RunStore, number: int) -> ServerRound:
    """One attempt at a round on the server: a new strategy with the state of the round before."""
    before = store.state(number - 1)
    return ServerRound(store.config, number, store.path(before.arrays), *store.load_strategy_state(number - 1))


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
