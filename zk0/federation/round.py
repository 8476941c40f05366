"""The algorithm: sample -> fit -> aggregate -> evaluate -> commit, without Prefect."""

from zk0.aggregation.server_round import RoundPlan
from zk0.runs.records import RoundState
from zk0.runs.store import RunStore
from zk0.work.records import ClientTask

SERVER = "server"
"""The name under which the server's own work of round 0 appears."""


def fit_work(store: RunStore, server_round: int, plan: RoundPlan, before: RoundState) -> list[ClientTask]:
    """One fit for every client of the round."""
    fits = [store.task("train", server_round, name, before, proximal_mu=plan.proximal_mu) for name in plan.clients]
    return [work.model_copy(update={"lr_scale": plan.lr_scale, "steps": plan.steps.get(work.client)}) for work in fits]


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
