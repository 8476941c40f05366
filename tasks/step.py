"""How a client's piece of work is made a Prefect task.

Nothing is cached or persisted by Prefect: the run directory recognises finished work, and keeps it.
"""

from collections.abc import Callable
from typing import Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from zk0.federation.steps import may_pass


def client_step[**P, R](name: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """A task for one client's piece of `work`, named like `fit-003-<client>`; only what may pass is tried again."""
    return task(
        name=name,
        task_run_name=f"{name}-{{work.server_round:03d}}-{{work.client}}",
        cache_policy=NO_CACHE,
        persist_result=False,
        retry_condition_fn=_may_pass,
    )


def _may_pass(_task: Task[Any, Any], _run: TaskRun, state: State[Any]) -> bool:
    return may_pass(state.result(raise_on_failure=False))
