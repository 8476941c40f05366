"""The federated run: a parent flow, a subflow per round, a task per client. The whole algorithm, to read."""

import time
from typing import Any, cast

from prefect import Flow, Task, flow, tags
from prefect.exceptions import ExternalSignal
from prefect.task_runners import ThreadPoolTaskRunner

from flows import FLOW, ROUND
from flows.advance import advanced_run
from flows.patience import patiently
from tasks.aggregate import aggregate, aggregate_statistics, sample
from tasks.artifacts import show
from tasks.client import fit, prepare
from tasks.commit import commit, export_final
from tasks.evaluate import evaluate, rollout
from tasks.prefect_logs import forward_logs
from tasks.slots import end_slot_services
from zk0.errors import ClientError
from zk0.executors.choice import stop_work
from zk0.federation.round import SERVER, evaluation_work, fit_work, rollout_work
from zk0.federation.server import Aggregated
from zk0.memory.sampler import phase
from zk0.runs.records import RoundState
from zk0.runs.store import RunStore
from zk0.work.records import ClientFailure, ClientResult, ClientTask


@flow(name=FLOW, persist_result=False)
def federated_training(config: str = "sim", overrides: list[str] = [], name: str | None = None) -> str:  # noqa: B006
    """Train, or go on training, one run; returns the path of the final policy.

    Args:
        config: a shipped config (sim, so100), a TOML file, or the directory of a run that is to go on.
        overrides: single keys to change, such as training.steps=20.
        name: the run's name; empty: an unfinished run of this config goes on, and without one the next starts.
    """
    with advanced_run(config, overrides, name) as store, forward_logs():
        run_dir = str(store.folder)
        state = store.resume_point() or patiently(in_subflow)(round_zero, store, 0, run_dir)
        patiently(show)(run_dir, state.server_round)
        for server_round in range(state.server_round + 1, store.config.federation.num_rounds + 1):
            state = patiently(in_subflow)(federated_round, store, server_round, run_dir, server_round)
            patiently(show)(run_dir, server_round)
        return patiently(export_final)(run_dir)


@flow(name=ROUND, persist_result=False)
def federated_round(run_dir: str, server_round: int) -> RoundState:
    """One round: sample -> fit (one task per client) -> aggregate -> evaluate -> commit."""
    started = time.monotonic()
    store = RunStore.open(run_dir)
    before = store.state(server_round - 1)
    plan = sample(run_dir, server_round)
    updates, lost = gather(store, fit, fit_work(store, server_round, plan, before))
    aggregated = aggregate(run_dir, server_round, updates, lost)
    after = RoundState(server_round=server_round, arrays=aggregated.arrays, stats=before.stats)
    evaluations, unknown = evaluated(store, after)
    seconds = time.monotonic() - started
    return commit(run_dir, server_round, aggregated, before.stats, updates + evaluations, unknown, seconds)


@flow(name=ROUND, persist_result=False)
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
    evaluations, unknown = evaluated(store, base)
    first = Aggregated(arrays=arrays, metrics={})
    return commit(run_dir, 0, first, stats, prepared + evaluations, unknown, time.monotonic() - started)


def in_subflow[**P](
    round_flow: Flow[P, RoundState], store: RunStore, server_round: int, *args: P.args, **kwargs: P.kwargs
) -> RoundState:
    """Run a round's flow under its own name, with as many clients at work as the executor may have."""
    named = round_flow.with_options(
        flow_run_name=f"round-{server_round:03d}",
        task_runner=cast(Any, ThreadPoolTaskRunner)(max_workers=store.config.executor.places),
    )
    try:
        with tags(f"round:{server_round}"):
            return named(*args, **kwargs)
    finally:
        end_slot_services()


def evaluated(store: RunStore, state: RoundState) -> tuple[list[ClientResult], list[ClientFailure]]:
    """What the round's policy is worth: on held-out episodes, then in simulation."""
    evaluations, unknown = gather(store, evaluate, evaluation_work(store, state))
    rollouts, missed = gather(store, rollout, rollout_work(store, state))
    return evaluations + rollouts, unknown + missed


def gather(
    store: RunStore, kind: Task[..., ClientResult], work: list[ClientTask], *, all_needed: bool = False
) -> tuple[list[ClientResult], list[ClientFailure]]:
    """Run one Prefect task per client and sort what comes back, in client order, into results and failures.

    Raises:
        ClientError: one failed and `all_needed` says that nothing goes without it.
    """
    executor = store.config.executor
    patient = kind.with_options(retries=executor.max_retries, retry_delay_seconds=executor.retry_delay_s)
    futures = []
    try:
        for item in work:
            with tags(f"client:{item.client}"):
                futures.append(patient.submit(item, executor))
        with phase(kind.name):
            outcomes: list[object] = [future.result(raise_on_failure=False) for future in futures]
    except (KeyboardInterrupt, ExternalSignal):
        stop_work(store)
        raise
    results: list[ClientResult] = []
    failures: list[ClientFailure] = []
    for item, outcome in zip(work, outcomes, strict=True):
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
