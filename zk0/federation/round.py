"""The algorithm, to read: sample -> fit -> aggregate -> evaluate -> commit, round after round.

How a step is done is `Steps`' business: by a plain call, or as a Prefect task.
"""

import time

from zk0.aggregation.server_round import RoundPlan
from zk0.federation.server import Aggregated
from zk0.federation.steps import Steps
from zk0.runs.records import RoundState
from zk0.runs.store import RunStore
from zk0.work.records import ClientFailure, ClientTask

SERVER = "server"
"""The name under which the server's own work of round 0 appears."""


def federate(run: Steps) -> RoundState:
    """Make the rounds of a run that are left; whoever calls it holds the run's lock.

    Each is shown beside the next one: a run that goes on trains before it shows.

    Returns:
        The last round.

    Raises:
        QuorumError: too few clients gave an update.
        ClientError: round 0 needs everybody, and one failed.
        StorageError: the run directory cannot be written or read.
    """
    with run.shown():
        state = run.resume_point() or run.one_round(make_round, 0, None)
        for server_round in range(state.server_round + 1, run.config.federation.num_rounds + 1):
            state = run.one_round(make_round, server_round, state)
    return state


def make_round(run: Steps, server_round: int, before: RoundState | None) -> RoundState:
    """Round 0 where nothing is before it, else a federated one."""
    return round_zero(run) if before is None else federated_round(run, server_round, before)


def federated_round(run: Steps, server_round: int, before: RoundState) -> RoundState:
    """One round: sample -> fit (one piece of work per client) -> aggregate -> evaluate -> commit."""
    started = time.monotonic()
    plan = run.sample(server_round, before)
    fits = run.each("fit", fit_work(run.store, server_round, plan, before))
    aggregated = run.aggregate(server_round, before, fits)
    after = RoundState(server_round=server_round, arrays=aggregated.arrays, stats=before.stats)
    evaluations = run.evaluate(evaluation_work(run.store, after), rollout_work(run.store, after))
    return run.commit(before, after, aggregated, fits + evaluations, time.monotonic() - started)


def round_zero(run: Steps) -> RoundState:
    """Round 0: the first exchanged tensors, the normalisation statistics, and the base evaluated as the baseline."""
    started = time.monotonic()
    prepared = run.each("prepare", [run.store.task("init", 0, SERVER)], all_needed=True)
    arrays = next(result.tensors for result in prepared.results if result.tensors is not None)
    stats, refused = None, tuple[ClientFailure, ...]()
    if run.config.data.normalization == "federated":
        work = [run.store.task("statistics", 0, client.name) for client in run.config.clients]
        statistics = run.each("prepare", work, all_needed=True, but="bad_data")
        made = run.aggregate_statistics(statistics)
        stats, refused = made.stats, made.failures
        prepared += statistics
    base = RoundState(server_round=0, arrays=arrays, stats=stats)
    evaluations = run.evaluate(evaluation_work(run.store, base), rollout_work(run.store, base))
    first = Aggregated(arrays=arrays, metrics={}, failures=refused)
    return run.commit(None, base, first, prepared + evaluations, time.monotonic() - started)


def fit_work(store: RunStore, server_round: int, plan: RoundPlan, before: RoundState) -> list[ClientTask]:
    """One fit for every client of the round."""
    fits = [store.task("train", server_round, name, before, proximal_mu=plan.proximal_mu) for name in plan.clients]
    told = {"lr_scale": plan.lr_scale, "clipping_norm": plan.clipping_norm}
    return [work.model_copy(update={**told, "steps": plan.steps.get(work.client)}) for work in fits]


def evaluation_work(store: RunStore, state: RoundState) -> list[ClientTask]:
    """One evaluation for every client's hold-out and for every setting that no client trains on.

    The latter come first: they are evaluated as a whole and take longest.
    """
    datasets = [*store.config.evaluation.datasets, *store.config.clients]
    return [store.task("evaluate", state.server_round, dataset.name, state) for dataset in datasets]


def rollout_work(store: RunStore, state: RoundState) -> list[ClientTask]:
    """One rollout for every simulated environment, in rounds that are evaluated in full."""
    environments = store.config.evaluation.environments if store.config.is_full(state.server_round) else []
    return [store.task("rollout", state.server_round, environment.name, state) for environment in environments]
