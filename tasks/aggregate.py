"""The server's side of a round as Prefect tasks: sampling, aggregation, and the clients' statistics made one."""

from loguru import logger
from prefect import task
from prefect.cache_policies import NO_CACHE

from zk0.aggregation import adaptive
from zk0.aggregation.server_round import RoundPlan
from zk0.executors import calls
from zk0.executors.process import ProcessExecutor
from zk0.federation.server import Aggregated, adapted, server_round
from zk0.memory.sampler import phase
from zk0.runs.store import RunStore
from zk0.work.records import ArtifactRef, ClientFailure, ClientResult


@task(task_run_name="sample-{number:03d}", cache_policy=NO_CACHE, persist_result=False)
def sample(run_dir: str, number: int) -> RoundPlan:
    """Choose the round's clients, by the strategy's own sampling, and let the adaptive schedules decide."""
    store = RunStore.open(run_dir)
    with phase("sample"):
        plan = server_round(store, number).configure()
    logger.info("round {}: {}", number, ", ".join(plan.clients))
    return adapted(store, number, plan) if adaptive.active(store.config.adaptive) else plan


@task(task_run_name="aggregate-{number:03d}", cache_policy=NO_CACHE, persist_result=False)
def aggregate(run_dir: str, number: int, results: list[ClientResult], failures: list[ClientFailure]) -> Aggregated:
    """Aggregate the clients' updates by Flower's strategy.

    Raises:
        QuorumError: too few updates.
    """
    store = RunStore.open(run_dir)
    with phase("aggregate"):
        outcome = server_round(store, number).aggregate(results, store.folder, failures)
        store.save_strategy_state(number, outcome.strategy_tensors, outcome.strategy_scalars)
        arrays = store.place(number, "global", outcome.tensors)
    logger.info("round {}: {} updates aggregated to {}", number, len(results), arrays.sha256[:12])
    for figure, share in outcome.lora.items():
        logger.info("round {}: LoRA {} is {:.3%} of the average of B A", number, figure, share)
    lost = tuple(outcome.failures)
    return Aggregated(arrays=arrays, metrics=outcome.metrics, failures=lost, lora=outcome.lora)


@task(task_run_name="aggregate-statistics", cache_policy=NO_CACHE, persist_result=False)
def aggregate_statistics(run_dir: str, results: list[ClientResult]) -> ArtifactRef:
    """Make one set of normalisation statistics of the clients' counts and moments, by LeRobot's `aggregate_stats`."""
    store = RunStore.open(run_dir)
    files = [str(store.path(result.tensors)) for result in results if result.tensors is not None]
    return store.place(0, "stats", ProcessExecutor(store.config.executor).call(calls.aggregate_statistics, files))
