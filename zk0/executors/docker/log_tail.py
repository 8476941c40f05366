"""The lines that a worker in a container adds to its client.log, told again in the orchestrator's log."""

import os
import re
from pathlib import Path

from loguru import logger

from zk0.files import untrusted

MOST_BYTES = 256 * 1024
"""Told at once, and many times what a worker writes between two looks; what is before that stays in the file alone."""
_OURS = re.compile(r"^\d{4}-\d\d-\d\d [\d:.]+ \| (?P<level>\w+) \|.*? \| \S+:\d+ - (?P<message>.*)$")
LONGEST_LINE = 64 * 1024
"""Bytes of a line whose end is waited for."""


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
        self._inode = self._position = 0
        self._rest = b""
        self._read(0)

    def forward(self) -> None:
        """Log what was added since the last call, at INFO; our own DEBUG lines are left out."""
        *lines, self._rest = (self._rest + self._read(MOST_BYTES)).split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            lines, self._rest = [*lines, self._rest], b""
        for line in lines:
            text = line.decode(errors="replace").rstrip()
            ours = _OURS.match(text)
            if text and not (ours and ours["level"] == "DEBUG"):
                logger.info("{}: {}", self._name, untrusted.printable(ours["message"] if ours else text))

    def _read(self, most: int) -> bytes:
        """What was added, or its end where that is longer; nothing of what is no plain file."""
        try:
            with untrusted.reader(self._path) as file:
                now = os.fstat(file.fileno())
                if now.st_ino != self._inode or now.st_size < self._position:  # it was rotated
                    self._inode, self._position, self._rest = now.st_ino, 0, b""
                file.seek(max(self._position, now.st_size - most))
                added = file.read(most)
                self._position = file.tell()
        except OSError:
            return b""
        return added
