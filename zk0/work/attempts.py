"""What was tried in vain: a line per failed attempt in the client's folder of the round, for tables and messages."""

import json
from datetime import UTC, datetime
from pathlib import Path

from loguru import logger

from zk0.errors import CAUSES, ClientError
from zk0.files import atomic, untrusted
from zk0.layout import ATTEMPTS_FILE
from zk0.work.records import ClientTask, TaskKind

READ_BYTES = 256 * 1024
"""Of its end: more than all attempts of a round take."""


def note_failure(task: ClientTask, error: ClientError) -> None:
    """Remember that an attempt at this work failed, and why; survives whatever happens to the orchestrator.

    Raises:
        StorageError: the folder cannot be written.
    """
    line = {"kind": task.kind, "cause": error.cause, "message": str(error), "at": datetime.now(UTC).isoformat()}
    path = task.folder / ATTEMPTS_FILE
    with atomic.storage_errors(path, "written"):
        untrusted.make_way(path)
    atomic.append_line(path, json.dumps(line, sort_keys=True))


def failed_causes(folder: Path, kind: TaskKind) -> list[str]:
    """The causes of the failed attempts at one kind of work, in order.

    Args:
        folder: the client's folder of the round.
        kind: the work.
    """
    try:
        lines = untrusted.tail(folder / ATTEMPTS_FILE, READ_BYTES).decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        logger.warning("failed attempts cannot be read: {}", error)
        return []
    causes = []
    for text in lines:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue  # torn by a crash, or not ours
        if isinstance(line, dict) and line.get("kind") == kind and line.get("cause") in CAUSES:
            causes.append(str(line["cause"]))
    return causes
