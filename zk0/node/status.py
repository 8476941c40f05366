"""What a node does and did, from its home alone."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zk0.files import atomic, untrusted
from zk0.node import ledger, settings
from zk0.services.keeper import running

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
"""What Flower puts around its levels."""
MOST_BYTES = 4 * 2**20
"""Of a log's end that is looked at."""


@dataclass(frozen=True)
class Status:
    """A node's state."""

    keeper: dict[str, Any] | None
    """What `zk0 node start` said last of its programs; None where it does not run."""
    left_bytes: int
    """Bytes that left, of all runs."""
    left: int
    """Files and records that left."""
    refused: int
    """Pieces of work that were refused."""
    last: dict[str, Any] | None
    """The ledger's last line."""

    def record(self) -> dict[str, Any]:
        """For programs."""
        return {
            "runs": self.keeper is not None,
            "parts": (self.keeper or {}).get("parts", {}),
            "left": self.left,
            "left_bytes": self.left_bytes,
            "refused": self.refused,
            "last": self.last,
        }

    def lines(self) -> list[str]:
        """For people."""
        if self.keeper is None:
            said = ["the node does not run: zk0 node start HOME"]
        else:
            said = [f"the node runs, process {self.keeper.get('pid')}"]
            for name, part in self.keeper.get("parts", {}).items():
                how = f"process {part['pid']}" if part["pid"] else part["waits_for"] or "waits for its next start"
                said.append(f"  {name}: {how} (starts: {part['starts']})")
        said.append(f"left: {self.left} files and records, {self.left_bytes:,} bytes; refused: {self.refused}")
        if self.last is not None:
            said.append(f"last: {told(self.last)}")
        return said


def status(home: Path) -> Status:
    """Look at a node's home.

    Raises:
        ConfigError: it is none.
        StorageError: it cannot be read.
    """
    settings.load(home)
    left, size, refused, last = 0, 0, 0, None
    for line in ledger.lines(home):
        last = line
        if line.get("event") == ledger.LEFT:
            left, size = left + 1, size + int(line.get("bytes", 0))
        refused += line.get("event") == ledger.REFUSED
    return Status(running(home), size, left, refused, last)


def last_lines(home: Path, number: int, *, ledger: bool) -> list[str]:
    """The end of the node's log, or of its ledger in words.

    Raises:
        ConfigError: there is no such home.
        StorageError: it cannot be read.
    """
    settings.load(home)
    path = home / (settings.LEDGER if ledger else settings.LOG)
    if not atomic.exists(path):
        return []
    with atomic.storage_errors(path, "read"):
        lines = untrusted.tail(path, MOST_BYTES).decode(errors="replace").splitlines()[-number:]
    return [_in_words(line) if ledger else untrusted.printable(_COLOUR.sub("", line)) for line in lines]


def told(line: dict[str, Any]) -> str:
    """A line of the ledger in words."""
    head = f"{line.get('at')} {line.get('event')} run {line.get('run')!r} round {line.get('round')} {line.get('kind')}"
    if line.get("event") == ledger.LEFT:
        return f"{head}: {line.get('what')}, {line.get('bytes'):,} bytes, SHA-256 {str(line.get('sha256'))[:12]}..."
    return f"{head}: {line.get('why') or str(line.get('steps')) + ' steps'}"


def _in_words(line: str) -> str:
    try:
        record = json.loads(line)
    except ValueError:
        return untrusted.printable(line)
    return untrusted.printable(told(record)) if isinstance(record, dict) else untrusted.printable(line)
