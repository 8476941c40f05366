"""A log file that outlives a full disk: Loguru's own file sink, which would print a traceback for every line."""

import contextlib
import os
import sys
from pathlib import Path

from loguru._file_sink import FileSink  # private: Loguru offers no other way to handle what a write raises

from zk0 import foreign


class LogFile:
    """Sink for Loguru with its rotation, retention and compression; each write is on the disk when it returns.

    Where the file cannot be written, one line on stderr says so; lines are written again as soon as they can be.

    Args:
        path: the file; its folder is made when missing.
        limits: `rotation`, `retention`, `compression`, as `logger.add` takes them.

    Raises:
        ValueError: a limit is not in Loguru's spelling.
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path, **limits: str | int) -> None:
        self._path = path
        self._sink = FileSink(path, opener=_open_write_through, **limits)
        self._failing = False

    def write(self, message: str) -> None:
        """Write one line."""
        try:
            self._sink.write(message)
            self._failing = False
        except OSError as error:
            self._complain(error)

    def stop(self) -> None:
        """Close the file."""
        try:
            self._sink.stop()
        except OSError as error:
            self._complain(error)
            with contextlib.suppress(OSError):  # the lines that could not be written are given up; the file is closed
                self._sink._file.close()  # noqa: SLF001

    def _complain(self, error: OSError) -> None:
        if not self._failing:
            with contextlib.suppress(OSError):  # a worker's stderr is on the same disk
                sys.stderr.write(f"{self._path}: the log cannot be written: {error.strerror or error}\n")
        self._failing = True


def _open_write_through(path: str, flags: int) -> int:
    """Open so that each write is on the disk when it returns: the last lines before a power cut are the wanted ones."""
    return foreign.open_plain(Path(path), flags | getattr(os, "O_DSYNC", 0))
