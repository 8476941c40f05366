"""What was tried in vain: a line per failed attempt in the client's folder of the round, for tables and messages."""

import json
from datetime import UTC, datetime
from pathlib import Path

from zk0 import atomic
from zk0.errors import ClientError
from zk0.records import ClientTask, TaskKind

ATTEMPTS_FILE = "attempts.jsonl"


def note_failure(task: ClientTask, error: ClientError) -> None:
    """Remember that an attempt at this work failed, and why; survives whatever happens to the orchestrator.

    Raises:
        StorageError: the folder cannot be written.
    """
    line = {"kind": task.kind, "cause": error.cause, "message": str(error), "at": datetime.now(UTC).isoformat()}
    atomic.append_line(task.folder / ATTEMPTS_FILE, json.dumps(line, sort_keys=True))


def failed_causes(folder: Path, kind: TaskKind) -> list[str]:
    """The causes of the failed attempts at one kind of work, in order.

    Args:
        folder: the client's folder of the round.
        kind: the work.
    """
    path = folder / ATTEMPTS_FILE
    if not path.is_file():
        return []
    causes = []
    with atomic.storage_errors(path, "read"):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for text in lines:
        try:
            line = json.loads(text)
        except ValueError:
            continue  # torn by a crash
        if isinstance(line, dict) and line.get("kind") == kind:
            causes.append(str(line.get("cause")))
    return causes
