"""Making a round durable, as a Prefect task."""

from tasks.step import step
from zk0.federation import commit as durable
from zk0.federation.outcomes import Outcomes
from zk0.federation.server import Aggregated
from zk0.runs.records import RoundState
from zk0.runs.store import RunStore


@step("commit-{after.server_round:03d}")
def commit(
    run_dir: str,
    before: RoundState | None,
    after: RoundState,
    aggregated: Aggregated,
    did: Outcomes,
    duration_s: float,
) -> RoundState:
    """Commit a round and prune the old ones; see `commit.commit`."""
    return durable.commit(RunStore.open(run_dir), before, after, aggregated, did, duration_s)
