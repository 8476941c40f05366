"""Evaluation of the global policy, on one dataset or in one simulated environment, as Prefect tasks."""

from tasks.client import client_task, run_work
from zk0.config import ExecutorConfig
from zk0.work.records import ClientResult, ClientTask


@client_task("evaluate")
def evaluate(work: ClientTask, config: ExecutorConfig) -> ClientResult:
    """Held-out action error and loss; runs where the dataset is, and only numbers come back."""
    return run_work(work, config)


@client_task("rollout")
def rollout(work: ClientTask, config: ExecutorConfig) -> ClientResult:
    """Success in closed loop; runs on the orchestrator's machine, for it needs nothing of a client's."""
    return run_work(work, config)
