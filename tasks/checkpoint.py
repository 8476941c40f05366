"""Making a round durable, and the final policy, as Prefect tasks."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from loguru import logger
from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.aggregate import Aggregated
from tasks.fit import export_policy
from zk0 import adaptive, atomic, attempts, leaks, memory
from zk0.closed_loop import Success
from zk0.config import RunConfig
from zk0.errors import ClientError
from zk0.executors import worker
from zk0.executors.process import ProcessExecutor
from zk0.memory_sampler import phase, round_figures
from zk0.records import ArtifactRef, ClientFailure, ClientResult, RoundState, TaskKind
from zk0.run_store import RunStore
from zk0.scores import FULL, QUICK, best_round, comparable
from zk0.seeding import derive_seed


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
    memory.give_back()
    costs = {"duration_s": duration_s, "orchestrator": round_figures()}
    with phase("commit"):
        state = store.commit(
            number,
            arrays=aggregated.arrays,
            strategy_tensors=tensors,
            strategy_scalars=scalars,
            metrics={**_with_attempts(store, number, metrics), **costs},
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


def export(store: RunStore, number: int, folder: Path, *, merge: bool, client: str | None = None) -> Path:
    """Write the global policy of a round to a folder, which is replaced as a whole.

    Args:
        store: the run.
        number: a committed round.
        folder: where to; an earlier export there is replaced.
        merge: merge the adapters into the weights.
        client: whose own statistics it is normalised by with data.normalization = "own"; the base's when None.
    """
    scratch = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    work = store.task("evaluate", number, client or store.config.clients[0].name, store.state(number))
    export_policy(work, store.config, scratch, merge=merge, own=client is not None)
    if folder.exists():
        atomic.remove_folder(folder)
    atomic.move(scratch, folder)
    return folder


def kept_optimizers(
    store: RunStore, number: int, aggregated: Aggregated, results: Iterable[ClientResult]
) -> dict[str, ArtifactRef]:
    """Client -> the optimizer's state that its next fit goes on from.

    That of this round's fit; of an earlier round's for a client that sat out, failed, or whose update was refused.
    """
    if store.config.training.optimizer_state == "fresh" or number == 0:
        return {}
    refused = {failure.client for failure in aggregated.failures}
    own = {result.client: result.optimizer for result in results if result.optimizer and result.client not in refused}
    return store.state(number - 1).optimizers | own


def round_metrics(
    config: RunConfig, aggregated: Aggregated, results: Iterable[ClientResult], failures: Iterable[ClientFailure]
) -> dict[str, Any]:
    """What metrics.json says of a round, its time aside."""
    by_kind: dict[str, dict[str, dict[str, Any]]] = {"train": {}, "evaluate": {}}  # and rollouts, where there are any
    for result in results:
        if result.kind in ("train", "evaluate", "rollout"):
            by_kind.setdefault(result.kind, {})[result.client] = {
                **result.metrics,
                "num_examples": result.num_examples,
                "duration_s": result.duration_s,
                "peak_rss_bytes": result.peak_rss_bytes,
                "update_bytes": result.tensors.size if result.tensors else 0,
            }
    evaluations = by_kind["evaluate"]
    summary = {**_summary(config, evaluations), "train_loss": aggregated.metrics.get("loss")}
    if "rollout" in by_kind:
        total = success_of(by_kind["rollout"])
        summary |= {"success_rate": total.rate, "successes": total.successes, "episodes": total.episodes}
    if quick := {name: item[QUICK] for name, item in evaluations.items() if QUICK in item}:
        summary[QUICK] = _summary(config, quick)
    return {
        **by_kind,
        "summary": summary,
        "evaluation": next((item["evaluation"] for item in evaluations.values()), FULL),
        "failures": [failure.model_dump(mode="json") for failure in failures],
        "global_sha256": aggregated.arrays.sha256,
        **({"lora": aggregated.lora} if aggregated.lora else {}),
    }


def success_of(rollouts: Mapping[str, Any]) -> Success:
    """Success over the episodes of all environments."""
    parts = [Success(item["successes"], item["episodes"]) for item in rollouts.values()]
    return sum(parts, start=Success(0, 0))


def _summary(config: RunConfig, evaluations: Mapping[str, Any]) -> dict[str, Any]:
    """Means over the clients' hold-outs, and over the settings that no client trains on."""
    clients = [evaluations[item.name] for item in config.clients if item.name in evaluations]
    unseen = [evaluations[item.name] for item in config.evaluation.datasets if item.name in evaluations]
    return {
        "action_error_deg": _mean(clients, "action_error_deg"),
        "gripper_error": _mean(clients, "gripper_error"),
        "loss": _mean(clients, "loss"),
        "unseen_action_error_deg": _mean(unseen, "action_error_deg"),
        "unseen_loss": _mean(unseen, "loss"),
    }


def with_history(store: RunStore, number: int, metrics: dict[str, Any]) -> dict[str, Any]:
    """Add what a round's metrics say beside the rounds before: intervals, change since round 0, adaptive decisions.

    Figures are not worth a run: where the process that computes intervals cannot live, they are left out.
    """
    config, rounds = store.config, store.read_metrics()
    first = rounds[0] if number and rounds and rounds[0]["server_round"] == 0 else {}
    (base, _), frames = comparable([first, metrics])
    seed = derive_seed(config.seed, 0, "", "bootstrap")
    names = [client.name for client in config.clients]
    success = success_of(metrics["rollout"]) if "rollout" in metrics else None
    try:
        found = ProcessExecutor(config.executor).call(
            worker.intervals, base.get("evaluate"), metrics["evaluate"], names, seed, success
        )
    except ClientError as error:
        logger.warning("round {}: no intervals of the means: {}", number, error)
        found = {"interval_95": {}, "change": None}
    added: dict[str, Any] = {"summary": {**metrics["summary"], "interval_95": found["interval_95"]}}
    if found["change"] is not None:
        added["change"] = {**found["change"], "frames": frames}
    if number and adaptive.active(config.adaptive):
        added["adaptive"] = adaptive.decide(config, rounds, number).record()
    return {**metrics, **added}


def _with_attempts(store: RunStore, number: int, metrics: dict[str, Any]) -> dict[str, Any]:
    """Add how often each fit was tried, and what went wrong before."""

    def causes(client: str, kind: TaskKind) -> list[str]:
        return attempts.failed_causes(store.round_folder(number) / "clients" / client, kind)

    fits = {
        client: {**figures, "attempts": 1 + len(causes(client, "train")), "failed_attempts": causes(client, "train")}
        for client, figures in metrics["train"].items()
    }
    failures = [
        {**failure, "attempts": max(1, len(causes(failure["client"], failure["kind"])))}
        for failure in metrics["failures"]
    ]
    return {**metrics, "train": fits, "failures": failures}


def _mean(items: list[dict[str, Any]], key: str) -> float | None:
    values = [item[key] for item in items if item.get(key) is not None]
    return sum(values) / len(values) if values else None
