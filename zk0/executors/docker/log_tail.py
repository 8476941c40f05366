"""The lines that a worker in a container adds to its client.log, told again in the orchestrator's log."""

import re
from pathlib import Path

from loguru import logger

_OURS = re.compile(r"^\d{4}-\d\d-\d\d [\d:.]+ \| (?P<level>\w+) \|.*? \| \S+:\d+ - (?P<message>.*)$")


class LogTail:
    """Follows a file from where it ends now; the file may not be there yet."""

    def __init__(self, path: Path, name: str) -> None:
        """Prepare.

        Args:
            path: the client's log.
            name: the client's, put before each line.
        """
        self._path = path
        self._name = name
        self._position = path.stat().st_size if path.is_file() else 0
        self._rest = b""

    def forward(self) -> None:
        """Log what was added since the last call, at INFO; our own DEBUG lines are left out."""
        if not self._path.is_file():
            return
        with self._path.open("rb") as file:
            file.seek(self._position)
            added = file.read()
        self._position += len(added)
        *lines, self._rest = (self._rest + added).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace").rstrip()
            ours = _OURS.match(text)
            if text and not (ours and ours["level"] == "DEBUG"):
                logger.info("{}: {}", self._name, ours["message"] if ours else text)
