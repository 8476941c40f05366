"""One client's work as a Prefect task: a fit, and what round 0 needs before the first one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from loguru import logger
from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from zk0 import attempts
from zk0.config import ExecutorConfig, RunConfig
from zk0.errors import ClientError, QuarantineError
from zk0.executors import STOPPED, Executor
from zk0.executors.process import ProcessExecutor
from zk0.executors.worker import save_policy
from zk0.guard import run_guarded
from zk0.records import ClientResult, ClientTask
from zk0.run_store import RunStore


def make_executor(work: ClientTask, config: ExecutorConfig) -> Executor:
    """The executor that `executor.kind` names, for a client's work; a rollout is always a process of this machine.

    A container is there to keep a client's recordings apart from everything else, and a rollout reads none: it takes
    the global tensors and a simulator, which is no client's. So the image needs no simulator, and a simulator no
    container with a way to draw. What it does not have is the container's bounds on memory and network.
    """
    if config.kind == "docker" and work.kind != "rollout":
        from zk0.executors.docker.executor import DockerExecutor  # the SDK only where it is used

        return DockerExecutor(RunStore.open(work.run_dir).config)
    return ProcessExecutor(config)


def export_policy(work: ClientTask, config: RunConfig, folder: Path, *, merge: bool, own: bool) -> None:
    """Write a round's policy, in a worker process: the orchestrator never loads a model."""
    ProcessExecutor(config.executor).call(save_policy, work.model_dump_json(), str(folder), merge, own)


def stop_work(store: RunStore) -> None:
    """End what is at work for a run whose orchestrator was told to end: containers get no signal from a terminal."""
    if store.config.executor.kind == "docker":
        from zk0.executors.docker.executor import stop_containers

        stop_containers(str(store.folder))


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
