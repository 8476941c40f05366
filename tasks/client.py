"""One client's work as a Prefect task: a fit, and what round 0 needs before the first one."""

from collections.abc import Callable
from typing import Any

from loguru import logger
from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from zk0.config import ExecutorConfig
from zk0.errors import ClientError, QuarantineError
from zk0.executors.choice import make_executor
from zk0.memory.guard import run_guarded
from zk0.runs.store import RunStore
from zk0.work import attempts
from zk0.work.executor import STOPPED
from zk0.work.records import ClientResult, ClientTask


def may_pass(_task: Task[Any, Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether another attempt can end otherwise: only a client's own death is retried, and not for bad data."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, ClientError) and error.retriable and not STOPPED.is_set()


def client_task(name: str) -> Callable[[Callable[..., ClientResult]], Task[..., ClientResult]]:
    """A Prefect task for one client's work, named like `fit-003-<client>`.

    Nothing is cached or persisted by Prefect: the run store recognises finished work, and keeps it.
    """
    return task(
        name=name,
        task_run_name=f"{name}-{{work.server_round:03d}}-{{work.client}}",
        cache_policy=NO_CACHE,
        persist_result=False,
        retry_condition_fn=may_pass,
    )


def run_work(work: ClientTask, config: ExecutorConfig) -> ClientResult:
    """Run one piece of work on the run's executor, its log lines bound to client and round."""
    with logger.contextualize(client=work.client, server_round=work.server_round):
        try:
            return run_guarded(make_executor(work, config).run, work, RunStore.open(work.run_dir).config)
        except QuarantineError as error:
            logger.warning("{} refused: {}", work.kind, error)
            raise
        except ClientError as error:
            if STOPPED.is_set():
                raise  # no attempt of the client's
            logger.warning("{} failed ({}): {}", work.kind, error.cause, error)
            attempts.note_failure(work, error)
            raise


@client_task("fit")
def fit(work: ClientTask, config: ExecutorConfig) -> ClientResult:
    """Local training of one client in one round."""
    return run_work(work, config)


@client_task("prepare")
def prepare(work: ClientTask, config: ExecutorConfig) -> ClientResult:
    """Round 0: the first global tensors (`init`) or one client's statistics."""
    return run_work(work, config)
