"""What was tried in vain: a line per failed attempt in the client's folder of the round, for tables and messages."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loguru import logger

from zk0.errors import CAUSES, ClientError, DamageError, HopelessError
from zk0.files import atomic, untrusted
from zk0.layout import ATTEMPTS_FILE
from zk0.work.records import ClientTask, TaskKind

READ_BYTES = 256 * 1024
"""Of its end: more than all attempts of a round take."""
_ADDRESS = re.compile("0x[0-9a-f]+")


def note_failure(task: ClientTask, error: ClientError) -> ClientError:
    """Remember that an attempt at this work failed, and why; survives whatever happens to the orchestrator.

    Returns:
        The error; without hope where the attempt before ended by an error of the same words.

    Raises:
        StorageError: the folder cannot be read or written.
    """
    before = [line for line in failed(task.folder) if line["kind"] == task.kind][-1:]
    message = str(error)
    line = {"kind": task.kind, "cause": error.cause, "message": message, "at": datetime.now(UTC).isoformat()}
    path = task.folder / ATTEMPTS_FILE
    with atomic.storage_errors(path, "written"):
        untrusted.make_way(path)
    atomic.append_line(path, json.dumps(line, sort_keys=True))
    if error.retriable and error.cause == "error" and any(_same(old.get("message"), message) for old in before):
        return HopelessError(error.cause, f"{message} (as the attempt before)")
    return error


def failed_causes(folder: Path, kind: TaskKind) -> list[str]:
    """The causes of the failed attempts at one kind of work, in order.

    Args:
        folder: the client's folder of the round.
        kind: the work.
    """
    return [str(line["cause"]) for line in failed(folder) if line["kind"] == kind]


def failed(folder: Path) -> list[dict[str, Any]]:
    """What was noted of failed attempts, in order: `kind`, `cause`, `message`, `at` (ISO 8601)."""
    path = folder / ATTEMPTS_FILE
    if not atomic.is_there(path):
        return []
    try:
        with atomic.storage_errors(path, "read"):
            texts = untrusted.tail(path, READ_BYTES).decode(errors="replace").splitlines()
    except DamageError as error:
        logger.warning("failed attempts cannot be read: {}", error)
        return []
    lines = []
    for text in texts:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue  # torn by a crash, or not ours
        if isinstance(line, dict) and isinstance(line.get("kind"), str) and line.get("cause") in CAUSES:
            lines.append(line)
    return lines


def _same(old: object, new: str) -> bool:
    """Whether two attempts failed in the same words, addresses in memory aside."""
    return isinstance(old, str) and _ADDRESS.sub("", old) == _ADDRESS.sub("", new)
