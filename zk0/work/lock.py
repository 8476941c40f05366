"""The lock of a piece of work: held by the worker that does it, however it dies."""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zk0.errors import StorageError
from zk0.files import atomic, untrusted
from zk0.layout import worker_lock_file
from zk0.work.executor import STOPPED
from zk0.work.records import ClientTask

CONTAINER_MARK = "ZK0_CONTAINER"
"""Environment variable inside every container of the Docker executor: the container's name."""
LOOKS, LOOK_S = 10, 0.02
"""Times that a worker tries again to take its lock, which one who only looks at it by `is_held` has for an instant, and
the pause before each, in seconds."""
HELD_POLL_S = 0.5


def lock_path(task: ClientTask) -> Path:
    """Held by the worker while it lives; the kernel frees it however the worker dies."""
    return task.folder / worker_lock_file(task.kind)


@contextmanager
def worker_lock(task: ClientTask) -> Iterator[bool]:
    """Try to take the task's lock, as the worker that does it; gives False where another one holds it.

    Raises:
        StorageError: the lock cannot be opened.
    """
    with _lock_file(task) as descriptor:
        mine = any(_lock(descriptor, fcntl.LOCK_EX, task, after_s=pause) for pause in (0, *[LOOK_S] * LOOKS))
        if mine:
            with atomic.storage_errors(lock_path(task), "written"):
                os.ftruncate(descriptor, 0)
                # A PID of another namespace would mean someone else here.
                os.write(descriptor, os.environ.get(CONTAINER_MARK, str(os.getpid())).encode())
        yield mine


def is_held(task: ClientTask) -> bool:
    """Whether a live worker holds the task's lock; looking leaves no trace in it.

    Raises:
        StorageError: the lock cannot be opened.
    """
    with _lock_file(task) as descriptor:
        return not _lock(descriptor, fcntl.LOCK_SH, task)  # shared: others who look at the same time are no workers


@contextmanager
def _lock_file(task: ClientTask) -> Iterator[int]:
    with atomic.storage_errors(lock_path(task), "written"):
        task.folder.mkdir(parents=True, exist_ok=True)
        descriptor = untrusted.open_ours(lock_path(task), os.O_RDWR | os.O_CREAT)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, how: int, task: ClientTask, after_s: float = 0) -> bool:
    time.sleep(after_s)
    try:
        with atomic.storage_errors(lock_path(task), "locked"):
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except StorageError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def wait_until_free(task: ClientTask, timeout_s: float) -> bool:
    """Wait for the end of a worker that holds the task's lock, whoever started it and wherever it runs.

    Args:
        task: the work.
        timeout_s: a worker older than this is not waited for, in seconds.

    Returns:
        Whether it ended; False, too, where a person ends the run meanwhile.
    """
    started = lock_path(task).stat().st_mtime
    while time.time() < started + timeout_s and not STOPPED.is_set():
        if not is_held(task):
            return True
        time.sleep(HELD_POLL_S)
    return False
