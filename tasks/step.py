"""How a client's piece of work is made a Prefect task.

Nothing is cached or persisted by Prefect: the run directory recognises finished work, and keeps it.
"""

from collections.abc import Callable
from typing import Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from zk0.config import RunConfig
from zk0.federation.steps import goes_on


def client_step[**P, R](name: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """A task for one client's piece of `work`, named like `fit-003-<client>`."""
    return task(
        name=name,
        task_run_name=f"{name}-{{work.server_round:03d}}-{{work.client}}",
        cache_policy=NO_CACHE,
        persist_result=False,
    )


def patient[**P, R](step: Task[P, R], config: RunConfig) -> Task[P, R]:
    """The task with the config's retries; only what may pass is tried again.

    The pause before is ours: one of Prefect's own goes on when a person ends the run, and holds its turn.
    """

    def goes_on_after(_task: Task[Any, Any], _run: TaskRun, state: State[Any]) -> bool:
        return goes_on(state.result(raise_on_failure=False), config)

    return step.with_options(retries=config.executor.max_retries, retry_condition_fn=goes_on_after)
