"""The server's side of a round as Prefect tasks."""

from tasks.step import step
from zk0.aggregation.server_round import RoundPlan
from zk0.federation import server
from zk0.federation.outcomes import Outcomes
from zk0.federation.server import Aggregated, AggregatedStatistics
from zk0.runs.records import RoundState
from zk0.runs.store import RunStore
from zk0.work.records import ClientResult


@step("sample-{server_round:03d}")
def sample(run_dir: str, server_round: int, before: RoundState) -> RoundPlan:
    """Choose the round's clients; see `server.sample`."""
    return server.sample(RunStore.open(run_dir), server_round, before)


@step("aggregate-{server_round:03d}")
def aggregate(run_dir: str, server_round: int, before: RoundState, fits: Outcomes) -> Aggregated:
    """Make the clients' updates one; see `server.aggregate`."""
    return server.aggregate(RunStore.open(run_dir), server_round, before, fits)


@step("aggregate-statistics")
def aggregate_statistics(run_dir: str, results: list[ClientResult]) -> AggregatedStatistics:
    """Make the clients' statistics one set; see `server.aggregate_statistics`."""
    return server.aggregate_statistics(RunStore.open(run_dir), results)
