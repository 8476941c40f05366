"""Ends the worker processes of a run that a person ends; those that a killed orchestrator left go on, to be adopted."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from zk0.errors import ClientError, StorageError
from zk0.executors.living import kill_tree, lock_holder, process_of, runs
from zk0.layout import worker_locks
from zk0.work.executor import STOPPED
from zk0.work.log import what
from zk0.work.records import ClientTask

_mine: dict[object, tuple[psutil.Process, str]] = {}
"""Each wait of this process for a worker: the worker, and its run directory; one just forked has no lock yet."""
_guard = threading.Lock()


def stop_processes(run_dir: str) -> None:
    """End every worker process of a run, whoever started it, with all that it started; those who wait for one wake.

    From here on none is started, until `STOPPED` is cleared.

    Args:
        run_dir: absolute path of the run directory.
    """
    STOPPED.set()
    with _guard:
        workers = {worker for worker, its_run in _mine.values() if its_run == run_dir}
    for path in worker_locks(Path(run_dir)):
        with suppress(StorageError):  # what a client made of it
            workers |= {lock_holder(path)} - {None}
    for worker in workers:
        if runs(worker):
            kill_tree(worker.pid)


def end_fork_server() -> None:
    """End this process' fork server, for one that is about to end: in its first imports it hears nothing else."""
    STOPPED.set()
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if any("multiprocessing.forkserver" in word for word in child.cmdline()):
                child.kill()


@contextmanager
def stoppable(task: ClientTask, pid: int | None) -> Iterator[None]:
    """Let `stop_processes` end a worker while it is waited for.

    Raises:
        ClientError: the run was ended while the worker was started; it is ended, too.
    """
    worker = process_of(pid)
    if worker is None:
        yield
        return
    wait = object()  # two may wait for the same worker
    with _guard:
        _mine[wait] = (worker, task.run_dir)
    try:
        if STOPPED.is_set():
            kill_tree(pid)
        go_on(task)
        yield
    finally:
        with _guard:
            del _mine[wait]


def go_on(task: ClientTask) -> None:
    """Begin nothing, and wait for nothing, in a run that a person has ended.

    Raises:
        ClientError: it is ended.
    """
    if STOPPED.is_set():
        raise ClientError("lost", f"{what(task)}: the run was ended")
