"""Worker processes as others see them: which one does a piece of work, whether it lives, and how it is ended."""

import os
from pathlib import Path

import psutil

from zk0.files import untrusted
from zk0.files.atomic import storage_errors
from zk0.work.lock import is_held, lock_path
from zk0.work.records import ClientTask

LONGEST_NAME = 64
"""Bytes of a lock that may name its holder."""


def live_worker(task: ClientTask) -> psutil.Process | None:
    """The worker that does this task now, whoever started it; None where nobody does it, or a container."""
    return lock_holder(lock_path(task)) if is_held(task) else None


def runs(process: psutil.Process) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def process_of(pid: int | None) -> psutil.Process | None:
    """A process by its id; None where it is gone."""
    try:
        return None if pid is None else psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def kill_tree(pid: int | None) -> None:
    """Kill a worker and what it started; DataLoader processes would outlive it."""
    if pid is None or not psutil.pid_exists(pid):
        return
    parent = psutil.Process(pid)
    for process in [*parent.children(recursive=True), parent]:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs([parent], timeout=10)


def lock_holder(path: Path) -> psutil.Process | None:
    """The live worker that holds the lock of a task; None where it ended in the meantime, or is in a container.

    Args:
        path: of the lock.
    """
    with storage_errors(path, "read"):
        text = untrusted.tail(path, LONGEST_NAME)
    process = process_of(int(text)) if text.isdigit() else None
    return process if process is not None and _has_open(process, path) else None


def _has_open(process: psutil.Process, path: Path) -> bool:
    """Whether a process has a file open: what a lock says of its holder may be a container's word, for any process."""
    try:
        return any(os.path.samestat(Path(file.path).stat(), path.lstat()) for file in process.open_files())
    except (OSError, psutil.Error):
        return False
