"""A client's work as Prefect tasks: a fit, its evaluation, and what round 0 needs before the first one."""

from tasks.step import client_step
from zk0.federation.steps import run_work
from zk0.runs.store import RunStore
from zk0.work.records import ClientResult, ClientTask


@client_step("prepare")
def prepare(work: ClientTask) -> ClientResult:
    """Round 0: the first global tensors (`init`) or one client's statistics."""
    return run_work(work, RunStore.open(work.run_dir).config)


@client_step("fit")
def fit(work: ClientTask) -> ClientResult:
    """Local training of one client in one round."""
    return run_work(work, RunStore.open(work.run_dir).config)


@client_step("evaluate")
def evaluate(work: ClientTask) -> ClientResult:
    """Held-out action error and loss; runs where the dataset is, and only numbers come back."""
    return run_work(work, RunStore.open(work.run_dir).config)


@client_step("rollout")
def rollout(work: ClientTask) -> ClientResult:
    """Success in closed loop; runs on the orchestrator's machine, for it needs nothing of a client's."""
    return run_work(work, RunStore.open(work.run_dir).config)


TASKS = {task.name: task for task in (prepare, fit, evaluate, rollout)}
"""Step -> task."""
