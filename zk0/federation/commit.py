"""Making a round durable, with what it is worth beside the rounds before."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from loguru import logger

from zk0.aggregation import adaptive
from zk0.config import RunConfig
from zk0.executors import calls
from zk0.executors.process import ProcessExecutor
from zk0.federation.outcomes import Outcomes
from zk0.federation.server import Aggregated
from zk0.layout import client_folder
from zk0.memory import leaks
from zk0.memory.sampler import phase, round_figures
from zk0.memory.usage import give_back
from zk0.metrics import units
from zk0.metrics.scores import FULL, QUICK, best_round, comparable
from zk0.metrics.success import Success
from zk0.metrics.units import ACTION_ERROR
from zk0.runs.records import RoundState, now
from zk0.runs.store import RunStore
from zk0.seeding import derive_seed
from zk0.work import attempts
from zk0.work.records import ArtifactRef, ClientFailure, ClientResult, TaskKind


def commit(
    store: RunStore,
    before: RoundState | None,
    after: RoundState,
    aggregated: Aggregated,
    did: Outcomes,
    duration_s: float,
) -> RoundState:
    """Commit a round and prune the old ones.

    Args:
        store: the run.
        before: the round before; None for round 0.
        after: the round, as far as its tensors and statistics go.
        aggregated: how these came about.
        did: what every client left: fits and evaluations, and the rollouts; and who gave nothing.
        duration_s: wall time of the round so far, in seconds.

    Returns:
        What the next round starts from.
    """
    number = after.server_round
    tensors, scalars = ({}, {}) if before is None else store.load_strategy_state(number)
    failures = [*aggregated.failures, *(failure for failure in did.failures if failure.kind != "train")]
    metrics = with_history(store, number, round_metrics(store.config, aggregated, did.results, failures))
    give_back()
    costs = {"duration_s": duration_s, "committed_at": now(), "orchestrator": round_figures()}
    with phase("commit"):
        state = store.commit(
            number,
            arrays=aggregated.arrays,
            strategy_tensors=dict(tensors),
            strategy_scalars=scalars,
            metrics={**with_attempts(store, number, metrics), **costs},
            results=did.results,
            stats=after.stats,
            optimizers=kept_optimizers(store.config, before, aggregated, did.results),
        )
        rounds = store.read_metrics()
        best = best_round(store.info.config, rounds)
        store.prune(store.config.checkpoint.keep, best.server_round if best else None)
    logger.info("round {} committed: {}", number, metrics["summary"])
    if best is not None:
        logger.info("best round so far: {} ({} {:.4g})", best.server_round, best.label, best.value)
    _watch(rounds)
    return state


def _watch(rounds: Sequence[Mapping[str, Any]]) -> None:
    """Say whose memory grows; what only watches must not end a run."""
    try:
        leaks.warn(rounds)
    except Exception as error:  # noqa: BLE001
        logger.warning("growth of memory is not known: {}: {}", type(error).__name__, error)


def kept_optimizers(
    config: RunConfig, before: RoundState | None, aggregated: Aggregated, results: Iterable[ClientResult]
) -> dict[str, ArtifactRef]:
    """Client -> the optimizer's state that its next fit goes on from.

    That of this round's fit; of an earlier round's for a client that sat out, failed, or whose update was refused.
    """
    if config.training.optimizer_state == "fresh" or before is None:
        return {}
    refused = {failure.client for failure in aggregated.failures}
    own = {result.client: result.optimizer for result in results if result.optimizer and result.client not in refused}
    return before.optimizers | own


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
        **{name: told for name in ("lora", "admission", "privacy") if (told := getattr(aggregated, name))},
    }


def success_of(rollouts: Mapping[str, Any]) -> Success:
    """Success over the episodes of all environments."""
    parts = [Success(item["successes"], item["episodes"]) for item in rollouts.values()]
    return sum(parts, start=Success(0, 0))


def _summary(config: RunConfig, evaluations: Mapping[str, Any]) -> dict[str, Any]:
    """Means over the clients' hold-outs, and over the settings that no client trains on."""
    clients = [evaluations[item.name] for item in config.clients if item.name in evaluations]
    unseen = [evaluations[item.name] for item in config.evaluation.datasets if item.name in evaluations]
    key, _ = units.over(clients, ACTION_ERROR)
    unseen_key, _ = units.over(unseen, ACTION_ERROR, units.unit_of({key: None}, ACTION_ERROR))
    return {
        key: units.mean(clients, ACTION_ERROR),
        "gripper_error": units.mean(clients, "gripper_error"),
        "loss": units.mean(clients, "loss"),
        f"unseen_{unseen_key}": units.mean(unseen, ACTION_ERROR),
        "unseen_loss": units.mean(unseen, "loss"),
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
            calls.intervals, base.get("evaluate"), metrics["evaluate"], names, seed, success
        )
    except Exception as error:  # noqa: BLE001 - whatever it was, it is only shown
        logger.warning("round {}: no intervals of the means: {}: {}", number, type(error).__name__, error)
        found = {"interval_95": {}, "change": None}
    added: dict[str, Any] = {"summary": {**metrics["summary"], "interval_95": found["interval_95"]}}
    if found["change"] is not None:
        added["change"] = {**found["change"], "frames": frames}
    if number and adaptive.active(config.adaptive):
        added["adaptive"] = adaptive.decide(config, rounds, number).record()
    return {**metrics, **added}


def with_attempts(store: RunStore, number: int, metrics: dict[str, Any]) -> dict[str, Any]:
    """Add how often each fit was tried, and what went wrong before."""

    def causes(client: str, kind: TaskKind) -> list[str]:
        return attempts.failed_causes(client_folder(store.folder, number, client), kind)

    fits = {
        client: {**figures, "attempts": 1 + len(causes(client, "train")), "failed_attempts": causes(client, "train")}
        for client, figures in metrics["train"].items()
    }
    failures = [
        {**failure, "attempts": max(1, len(causes(failure["client"], failure["kind"])))}
        for failure in metrics["failures"]
    ]
    return {**metrics, "train": fits, "failures": failures}
