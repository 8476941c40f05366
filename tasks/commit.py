"""Making a round durable, and the final policy, as Prefect tasks."""

from loguru import logger
from prefect import task
from prefect.cache_policies import NO_CACHE

from zk0.federation.commit import kept_optimizers, round_metrics, with_attempts, with_history
from zk0.federation.export import export
from zk0.federation.server import Aggregated
from zk0.memory import leaks
from zk0.memory.sampler import phase, round_figures
from zk0.memory.usage import give_back
from zk0.metrics.scores import best_round
from zk0.runs.records import RoundState
from zk0.runs.store import RunStore
from zk0.work.records import ArtifactRef, ClientFailure, ClientResult


@task(task_run_name="commit-{number:03d}", cache_policy=NO_CACHE, persist_result=False)
def commit(
    run_dir: str,
    number: int,
    aggregated: Aggregated,
    stats: ArtifactRef | None,
    results: list[ClientResult],
    failures: list[ClientFailure],
    duration_s: float,
) -> RoundState:
    """Commit a round and prune the old ones.

    Args:
        run_dir: the run directory.
        number: the round.
        aggregated: the new global tensors and the averaged training metrics.
        stats: federated normalisation statistics, where the run has them.
        results: what every client left: fits and evaluations; and the rollouts.
        failures: evaluations and rollouts that gave nothing, and why.
        duration_s: wall time of the round so far, in seconds.
    """
    store = RunStore.open(run_dir)
    tensors, scalars = store.load_strategy_state(number) if number else ({}, {})
    metrics = round_metrics(store.config, aggregated, results, [*aggregated.failures, *failures])
    metrics = with_history(store, number, metrics)
    give_back()
    costs = {"duration_s": duration_s, "orchestrator": round_figures()}
    with phase("commit"):
        state = store.commit(
            number,
            arrays=aggregated.arrays,
            strategy_tensors=tensors,
            strategy_scalars=scalars,
            metrics={**with_attempts(store, number, metrics), **costs},
            results=results,
            stats=stats,
            optimizers=kept_optimizers(store, number, aggregated, results),
        )
        rounds = store.read_metrics()
        best = best_round(store.info.config, rounds)
        store.prune(store.config.checkpoint.keep, best.server_round if best else None)
    logger.info("round {} committed: {}", number, metrics["summary"])
    if best is not None:
        logger.info("best round so far: {} ({} {:.4g})", best.server_round, best.label, best.value)
    leaks.warn(rounds)
    return state


@task(task_run_name="export-final", cache_policy=NO_CACHE, persist_result=False)
def export_final(run_dir: str) -> str:
    """Write `final/`, a LeRobot `pretrained_model` folder of the newest round; returns its path."""
    store = RunStore.open(run_dir)
    return str(export(store, store.committed_rounds()[-1], store.folder / "final", merge=False))
