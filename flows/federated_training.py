"""The federated run: a parent flow, a subflow per round, a task per client. The whole algorithm, to read."""

import time
from typing import Any, cast

from prefect import Flow, Task, flow
from prefect.task_runners import ThreadPoolTaskRunner

from tasks.aggregate import Aggregated, aggregate, aggregate_statistics, sample
from tasks.checkpoint import commit, export_final
from tasks.evaluate import evaluate
from tasks.fit import fit, prepare
from tasks.prefect_logs import forward_logs
from zk0.config import RunConfig
from zk0.errors import ClientError
from zk0.records import ClientFailure, ClientResult, ClientTask, RoundState
from zk0.run_store import RunStore

SERVER = "server"
"""The name under which the server's own work of round 0 appears."""


@flow(name="federated-training", flow_run_name="{name}", persist_result=False)
def federated_training(config: RunConfig, name: str) -> str:
    """Train, or go on training, one run; returns the path of the final policy.

    Args:
        config: the run; frozen in the run directory at the first start.
        name: the run's name, its folder under `outputs_dir`.
    """
    store = RunStore.create_or_open(config, name)
    run_dir = str(store.folder)
    with store.lock(), forward_logs():
        state = store.resume_point() or subflow(round_zero, store, 0)(run_dir)
        for server_round in range(state.server_round + 1, config.federation.num_rounds + 1):
            state = subflow(federated_round, store, server_round)(run_dir, server_round)
        return export_final(run_dir)


@flow(name="round", persist_result=False)
def federated_round(run_dir: str, server_round: int) -> RoundState:
    """One round: sample -> fit (one task per client) -> aggregate -> evaluate -> commit."""
    started = time.monotonic()
    store = RunStore.open(run_dir)
    before = store.state(server_round - 1)
    plan = sample(run_dir, server_round)
    fits = [store.task("train", server_round, name, before, proximal_mu=plan.proximal_mu) for name in plan.clients]
    updates, lost = gather(store, fit, fits)
    aggregated = aggregate(run_dir, server_round, updates, lost)
    after = RoundState(server_round=server_round, arrays=aggregated.arrays, stats=before.stats)
    evaluations, unknown = gather(store, evaluate, evaluation_work(store, after))
    seconds = time.monotonic() - started
    return commit(run_dir, server_round, aggregated, before.stats, updates + evaluations, unknown, seconds)


@flow(name="round", persist_result=False)
def round_zero(run_dir: str) -> RoundState:
    """Round 0: the first exchanged tensors, the normalisation statistics, and the base evaluated as the baseline."""
    started = time.monotonic()
    store = RunStore.open(run_dir)
    prepared = gather(store, prepare, [store.task("init", 0, SERVER)], all_needed=True)[0]
    arrays = next(result.tensors for result in prepared if result.tensors is not None)
    stats = None
    if store.config.data.normalization == "federated":
        work = [store.task("statistics", 0, client.name) for client in store.config.clients]
        statistics = gather(store, prepare, work, all_needed=True)[0]
        stats = aggregate_statistics(run_dir, statistics)
        prepared += statistics
    base = RoundState(server_round=0, arrays=arrays, stats=stats)
    evaluations, unknown = gather(store, evaluate, evaluation_work(store, base))
    first = Aggregated(arrays=arrays, metrics={})
    return commit(run_dir, 0, first, stats, prepared + evaluations, unknown, time.monotonic() - started)


def subflow[**P](round_flow: Flow[P, RoundState], store: RunStore, server_round: int) -> Flow[P, RoundState]:
    """A round's flow under its own name, with as many clients at work as the executor may have."""
    return round_flow.with_options(
        flow_run_name=f"round-{server_round:03d}",
        task_runner=cast(Any, ThreadPoolTaskRunner)(max_workers=store.config.executor.max_parallel),
    )


def evaluation_work(store: RunStore, state: RoundState) -> list[ClientTask]:
    """One evaluation for every client's hold-out and for every setting that no client trains on.

    The latter come first: they are evaluated as a whole and take longest.
    """
    datasets = [*store.config.evaluation.datasets, *store.config.clients]
    return [store.task("evaluate", state.server_round, dataset.name, state) for dataset in datasets]


def gather(
    store: RunStore, kind: Task[..., ClientResult], work: list[ClientTask], *, all_needed: bool = False
) -> tuple[list[ClientResult], list[ClientFailure]]:
    """Run one Prefect task per client and sort what comes back, in client order, into results and failures.

    Raises:
        ClientError: one failed and `all_needed` says that nothing goes without it.
    """
    executor = store.config.executor
    patient = kind.with_options(retries=executor.max_retries, retry_delay_seconds=executor.retry_delay_s)
    futures = [patient.submit(item, executor) for item in work]
    results: list[ClientResult] = []
    failures: list[ClientFailure] = []
    for item, future in zip(work, futures, strict=True):
        outcome: object = future.result(raise_on_failure=False)
        if isinstance(outcome, ClientResult):
            results.append(outcome)
        elif isinstance(outcome, ClientError) and not all_needed:
            failures.append(
                ClientFailure(
                    client=item.client,
                    server_round=item.server_round,
                    kind=item.kind,
                    cause=outcome.cause,
                    message=str(outcome),
                )
            )
        else:
            assert isinstance(outcome, BaseException)
            raise outcome
    return results, failures
