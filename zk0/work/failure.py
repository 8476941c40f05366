"""What an ended worker left in its folder, whichever executor ran it: the reason in its own words, its last line."""

import os
import re
import signal
from pathlib import Path
from typing import NoReturn

from loguru import logger

from zk0.errors import CAUSES, ClientError, DamageError, FailureCause, HopelessError, StorageError
from zk0.files import atomic, untrusted
from zk0.layout import failure_file
from zk0.work.log import client_log, what
from zk0.work.records import ClientTask
from zk0.work.told import Told, spelled, tell

CHECKPOINT_TIMES = 9
"""What a fit has on the disk at most, in sizes of the tensors it starts from: two checkpoints with two moments of every
weight, the update, the optimizer's state."""
ROOM_BYTES = 2**20
"""For records and logs."""


def unwritable(task: ClientTask) -> NoReturn:
    """Say why a worker could not write into the run directory, not even its reason.

    Raises:
        StorageError: always.
    """
    why = StorageError(f"{what(task)}: the run directory could not be written; free some space, then resume the run")
    leave_failure(task, why)  # where it still cannot be written, this raises the very reason
    raise why


def check_writable(task: ClientTask) -> None:
    """Try to have the room that the work may need, on its disk and where no container could have spoiled anything.

    A worker whose disk was full has made room again: what it could not write whole is gone.

    Raises:
        StorageError: the run directory cannot be written, or has not the room.
    """
    probe = task.folder.parent / f".{task.client}-{task.kind}.tmp"  # swept with the temporaries
    needed = ROOM_BYTES + CHECKPOINT_TIMES * (task.incoming.size if task.incoming else 0)
    with atomic.storage_errors(probe, "written"):
        try:
            with probe.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, needed)
        finally:
            probe.unlink(missing_ok=True)


STORAGE = "storage"
"""Cause of a worker that could not write or read the run directory: the run's fault, not the client's."""


def failure_path(task: ClientTask) -> Path:
    """Where a worker writes why it ended, when it can tell."""
    return task.folder / failure_file(task.kind)


def read_failure(task: ClientTask) -> ClientError | StorageError | None:
    """Why the last worker ended, as far as it could tell; a damaged note is named in the log and tells nothing.

    These are the worker's own words: a cause that nobody knows is an `error`.
    """
    path = failure_path(task)
    try:
        if not atomic.is_there(path):
            return None
        record = atomic.read_sealed(path, untrusted.SMALL_BYTES)
    except DamageError as error:
        logger.warning("{}", error)
        return None
    cause = record.get("cause")
    message = f"{what(task)}: {untrusted.words(record.get('message'))}"
    if cause == STORAGE:
        return StorageError(message)
    known: FailureCause = next((item for item in CAUSES if item == cause), "error")
    return (HopelessError if record.get("repeats") is True else ClientError)(known, message)


def leave_failure(task: ClientTask, error: BaseException | Told) -> None:
    """Write down why the work of a task failed.

    Args:
        task: the work.
        error: what it ended by.

    Raises:
        StorageError: it cannot be written.
    """
    told = error if isinstance(error, Told) else tell(error)
    record = {
        "cause": STORAGE if told.kind in (StorageError.__name__, DamageError.__name__) else told.cause,
        "error": told.name,
        "message": told.words if told.kind else f"{told.words}; see {client_log(task)}",
        "repeats": not told.passes,
    }
    atomic.write_sealed(failure_path(task), record)


CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE}
"""What compiled code ends its process by; all others come from someone else."""
_FATAL = re.compile(r"^Fatal Python error: (.+)$", re.MULTILINE)
_CALL = re.compile(r'^  File "(.+)", line (\d+) in ', re.MULTILINE)


def crash(number: int, said: str) -> str | None:
    """What a process that a crash signal ended was at, by Python's last words; None for another signal.

    Args:
        number: of the signal.
        said: the end of what `faulthandler` wrote to.
    """
    if number not in CRASHES:
        return None
    words = f"compiled code crashed the process ({signal.Signals(number).name}"
    fatal = list(_FATAL.finditer(said))
    if fatal:
        said = said[fatal[-1].start() :]
        words += f", {untrusted.words(fatal[-1][1])}"
    calls = _CALL.search(said) if fatal else None
    place = f", called in {untrusted.words(spelled(Path(calls[1]), int(calls[2])))}" if calls else ""
    return f"{words}){place}"
