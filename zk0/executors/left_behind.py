"""What an ended worker left in its folder, whichever executor ran it: the reason in its own words, its last line."""

import os
from pathlib import Path
from typing import NoReturn

from zk0 import atomic, foreign
from zk0.errors import StorageError
from zk0.executors import worker
from zk0.records import ClientTask

LONGEST_LINE = 500
"""Characters of a log's line that fit into a message."""
CHECKPOINT_TIMES = 9
"""What a fit has on the disk at most, in sizes of the tensors it starts from: two checkpoints with two moments of every
weight, the update, the optimizer's state."""
ROOM_BYTES = 2**20
"""For records and logs."""
READ_BYTES = 64 * 1024
"""Of a log's end; the log may be huge."""


def client_log(task: ClientTask) -> Path:
    """Where the worker's words go."""
    return task.folder / "client.log"


def what(task: ClientTask) -> str:
    """The work, for messages."""
    return f"{task.kind} of {task.client!r}"


def unwritable(task: ClientTask) -> NoReturn:
    """Say why a worker could not write into the run directory, not even its reason.

    Raises:
        StorageError: always.
    """
    why = StorageError(f"{what(task)}: the run directory could not be written; free some space, then resume the run")
    worker.leave_failure(task, why)  # where it still cannot be written, this raises the very reason
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


def last_line(log: Path) -> str:
    """The last line of a log that says something, cut to a length for a message."""
    try:
        lines = foreign.tail(log, READ_BYTES).decode(errors="replace").split("\n")
    except OSError:
        return "no output"
    return next((foreign.words(line.strip()[-LONGEST_LINE:]) for line in reversed(lines) if line.strip()), "no output")
