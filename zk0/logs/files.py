"""Log files that outlive a full disk: Loguru's own file sink, which would print a traceback for every line.

The sink is private: the public way to it, `logger.add(path)`, leaves nothing between the sink and its `OSError`, and no
file that others write into could be rotated in place. Held by tests/unit/logs/test_files_contract.py.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from loguru._file_sink import FileSink
from loguru._string_parsers import parse_size

from zk0.files import untrusted

LOOK_S = 1.0
"""From one look at the size of a shared log to the next, in seconds."""
CHUNK = 2**20
"""Bytes of a log that are copied at once."""


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

    def __init__(self, path: Path, **limits: str | int | Callable[[Any, Any], bool]) -> None:
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


class SharedLogFile(LogFile):
    """A log that others write into, too: stdout and stderr of this process, and of those that it starts.

    It is rotated in place, copied and then emptied, so that all of them go on in it; renamed, it would take their
    words along. Its size is looked at all the time: a decoder may talk while Loguru has nothing to say. What the others
    write in the instant between copying and emptying is lost.

    Args:
        path: the file; its folder is made when missing.
        rotation: size or age at which it is rotated, as `logger.add` takes it.
        kept: copies that stay.

    Raises:
        ValueError: the rotation is not in Loguru's spelling.
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path, rotation: str, kept: int) -> None:
        self._is_due = FileSink._make_rotation_function(rotation)  # noqa: SLF001
        # None: an age, which Loguru's lines are enough for.
        self._limit: float | None = parse_size(rotation)  # type: ignore[no-untyped-call]  # private, as FileSink
        self._kept = kept
        self._owner = os.getpid()
        self._lock = threading.RLock()
        self._end = threading.Event()
        super().__init__(path, rotation=self._rotate_if_due)
        self._thread = threading.Thread(target=self._watch, name="zk0-log", daemon=True)
        self._thread.start()

    def write(self, message: str) -> None:
        """Write one line."""
        if os.getpid() != self._owner:  # a forked child: nobody is left there to free the lock
            super().write(message)
            return
        with self._lock:
            super().write(message)

    def stop(self) -> None:
        """Close the file."""
        self._end.set()
        self._thread.join()
        super().stop()

    def _watch(self) -> None:
        while not self._end.wait(LOOK_S):
            try:
                self._keep_small()
            except OSError as error:
                self._complain(error)

    def _keep_small(self) -> None:
        with self._lock:
            if self._limit is not None and self._path.stat().st_size > self._limit:
                self._rotate()

    def _rotate_if_due(self, message: str, file: IO[str]) -> bool:
        """Loguru asks this before each line; it has nothing to rotate itself."""
        if os.getpid() == self._owner and self._is_due(message, file):
            self._rotate()
        return False

    def _rotate(self) -> None:
        stem, suffix = self._path.stem, self._path.suffix
        copies = sorted(path for path in self._path.parent.glob(f"{stem}.*{suffix}") if path != self._path)
        for copy in copies[: max(0, len(copies) + 1 - self._kept)]:
            copy.unlink(missing_ok=True)
        now = datetime.now(UTC).astimezone()
        copy = self._path.with_name(f"{stem}.{now:%Y-%m-%d_%H-%M-%S_%f}{suffix}")
        failed: OSError | None = None
        try:
            _copy(self._path, copy)
        except OSError as error:
            failed = error
            copy.unlink(missing_ok=True)
        os.truncate(self._path, 0)  # without a copy, too: where the disk is full, its lines make room
        if failed is not None:
            self._complain(failed)


def _copy(path: Path, target: Path) -> None:
    """Copy a file that others may be writing to: what was there at first, then what came meanwhile."""
    with path.open("rb") as file, target.open("wb") as copy:
        for _ in range(2):
            end = os.fstat(file.fileno()).st_size
            while part := file.read(min(CHUNK, end - file.tell())):
                copy.write(part)
        copy.flush()
        os.fsync(copy.fileno())


def _open_write_through(path: str, flags: int) -> int:
    """Open so that each write is on the disk when it returns: the last lines before a power cut are the wanted ones."""
    return untrusted.open_plain(Path(path), flags | getattr(os, "O_DSYNC", 0))
