"""The owner's ledger: a durable line for everything that left the node, and for every fit that began."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from zk0.files import atomic, untrusted
from zk0.node.request import WorkRequest
from zk0.node.settings import LEDGER

BEGAN, LEFT, REFUSED = "began", "left", "refused"


def note(home: Path, *, request: WorkRequest, what: str, sha256: str, size: int) -> None:
    """Write down a file or record that leaves; before it does.

    Args:
        home: of the node.
        request: what it is the answer to.
        what: its name, such as `update.safetensors`.
        sha256: of its bytes, in hex.
        size: in bytes.

    Raises:
        StorageError: it cannot be written: then nothing may leave.
    """
    _append(home, LEFT, request, what=what, sha256=sha256, bytes=size)


def began(home: Path, request: WorkRequest) -> None:
    """Write down that a fit begins; one that is taken up again counts once.

    Raises:
        StorageError: it cannot be written.
    """
    _append(home, BEGAN, request, steps=request.steps)


def refused(home: Path, request: WorkRequest, why: str) -> None:
    """Write down what was refused.

    Raises:
        StorageError: it cannot be written.
    """
    _append(home, REFUSED, request, why=why)


def lines(home: Path) -> Iterator[dict[str, Any]]:
    """The ledger, from its beginning; a line that a crash has torn is left out.

    Raises:
        StorageError: it cannot be read.
    """
    path = home / LEDGER
    if not atomic.exists(path):
        return
    with atomic.storage_errors(path, "read"):
        content = untrusted.read(path, most=None)
    for line in content.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record


def steps_of_a_day(home: Path, now: datetime, but: WorkRequest) -> int:
    """Optimizer steps of the fits that began in the 24 hours before, each counted once.

    Args:
        home: of the node.
        now: with its time zone.
        but: a fit that is not counted: the one that is asked for, which may be taken up again.

    Raises:
        StorageError: the ledger cannot be read.
    """
    since, fits = now - timedelta(days=1), {}
    for record in lines(home):
        if record.get("event") == BEGAN and datetime.fromisoformat(str(record["at"])) > since:
            fits[_fit(record)] = int(record["steps"])
    fits.pop((but.run, but.config_digest, but.server_round), None)
    return sum(fits.values())


def _fit(record: dict[str, Any]) -> tuple[str, str, int]:
    return str(record["run"]), str(record["config_digest"]), int(record["round"])


def _append(home: Path, event: str, request: WorkRequest, **what: str | int) -> None:
    record = {
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "event": event,
        "link": request.link,
        "run": request.run,
        "config_digest": request.config_digest,
        "round": request.server_round,
        "kind": request.kind,
        **what,
    }
    atomic.append_line(home / LEDGER, json.dumps(record))
