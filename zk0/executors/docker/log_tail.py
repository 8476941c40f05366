"""The lines that a worker in a container adds to its client.log, told again in the orchestrator's log."""

import os
import re
from pathlib import Path

from loguru import logger

_OURS = re.compile(r"^\d{4}-\d\d-\d\d [\d:.]+ \| (?P<level>\w+) \|.*? \| \S+:\d+ - (?P<message>.*)$")
CHUNK = 64 * 1024
"""Bytes that are read at once, and the longest part of a line that is waited for."""


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
        self._inode, self._position = (path.stat().st_ino, path.stat().st_size) if path.is_file() else (0, 0)
        self._rest = b""

    def forward(self) -> None:
        """Log what was added since the last call, at INFO; our own DEBUG lines are left out."""
        if not self._path.is_file():
            return
        with self._path.open("rb") as file:
            now = os.fstat(file.fileno())
            if now.st_ino != self._inode or now.st_size < self._position:  # it was rotated
                self._inode, self._position, self._rest = now.st_ino, 0, b""
            file.seek(self._position)
            while added := file.read(min(CHUNK, now.st_size - self._position)):
                self._position += len(added)
                self._tell(added)

    def _tell(self, added: bytes) -> None:
        *lines, self._rest = (self._rest + added).split(b"\n")
        if len(self._rest) > CHUNK:
            lines, self._rest = [*lines, self._rest], b""
        for line in lines:
            text = line.decode(errors="replace").rstrip()
            ours = _OURS.match(text)
            if text and not (ours and ours["level"] == "DEBUG"):
                logger.info("{}: {}", self._name, ours["message"] if ours else text)
