"""The log of a piece of work, and its last words."""

from pathlib import Path

from zk0.files import untrusted
from zk0.layout import CLIENT_LOG
from zk0.work.records import ClientTask

LONGEST_LINE = 500
"""Characters of a log's line that fit into a message."""
READ_BYTES = 64 * 1024
"""Of a log's end; the log may be huge."""


def client_log(task: ClientTask) -> Path:
    """Where the worker's words go."""
    return task.folder / CLIENT_LOG


def what(task: ClientTask) -> str:
    """The work, for messages."""
    return f"{task.kind} of {task.client!r}"


def end_of(log: Path) -> str:
    """The end of a log; nothing where it cannot be read."""
    try:
        return untrusted.tail(log, READ_BYTES).decode(errors="replace")
    except OSError:
        return ""


def last_line(log: Path) -> str:
    """The last line of a log that says something, cut to a length for a message."""
    return next(
        (untrusted.words(line.strip()[-LONGEST_LINE:]) for line in reversed(end_of(log).split("\n")) if line.strip()),
        "no output",
    )
