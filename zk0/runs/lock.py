"""The lock of a run directory: one writer at a time, freed by the kernel however its holder dies."""

import errno
import fcntl
import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zk0.config.paths import check_target
from zk0.errors import ConfigError, RunNameError, StorageError
from zk0.files import atomic, untrusted
from zk0.layout import LOCK_FILE, SERVED_FILE, STOPPED_FILE
from zk0.metrics.values import Json, mapping
from zk0.runs.records import now

LOOKS, LOOK_S = 10, 0.02
"""Times that the lock is tried again, which one who only looks at it has for an instant; the pause between, in s."""
HOLDER_BYTES = 4096
"""More than a holder writes of itself."""


@dataclass(frozen=True, eq=False)
class _Hold:
    """A lock that this process holds."""

    folder: str
    descriptor: int
    place: os.stat_result
    """Of the folder when the lock was taken."""


_held: set[_Hold] = set()
"""The locks that this process holds."""
_of_this_context: ContextVar[frozenset[_Hold]] = ContextVar("locks of this context", default=frozenset())
"""Those that were taken in this context, or in the one that it was copied from; some may be released since."""


def _drop_inherited_locks() -> None:
    """A forked child shares its parent's lock and would keep it alive after the parent's death."""
    while _held:
        os.close(_held.pop().descriptor)


os.register_at_fork(after_in_child=_drop_inherited_locks)


def is_ours(folder: Path) -> bool:
    """Whether this context holds a run directory's lock; another thread of this process does not, by that."""
    return any(hold.folder == os.path.realpath(folder) for hold in _of_this_context.get() & _held)


def check_place(folder: Path) -> None:
    """See that a run directory whose lock this process holds is where it was when the lock was taken.

    Raises:
        StorageError: it was moved or removed meanwhile: what is written now would be in a folder that is no run.
    """
    for taken in [hold for hold in _held if hold.folder == os.path.realpath(folder)]:
        with atomic.storage_errors(folder, "read"):
            there = untrusted.status(folder)
        if there is None or not os.path.samestat(there, taken.place):
            raise StorageError(
                f"{folder}: was moved or removed while the run was advanced; put it back, or resume the run where it is"
            )


def open_lock(folder: Path) -> int:
    """Open the lock's file, made where it is missing, for `hold`.

    Raises:
        StorageError: it cannot be written, or is no plain file of our own.
    """
    path = folder / LOCK_FILE
    with atomic.storage_errors(path, "written"):
        descriptor = untrusted.open_plain(path, os.O_RDWR | os.O_CREAT)
        try:
            _check_ours(descriptor, path)
        except OSError:
            os.close(descriptor)
            raise
    return descriptor


def _check_ours(descriptor: int, path: Path) -> None:
    """Take no file that has another name, too, and is no lock: who holds it writes into it."""
    content = os.pread(descriptor, HOLDER_BYTES, 0) if os.fstat(descriptor).st_nlink > 1 else b""
    if content and _parse_holder(content)["pid"] is None:
        raise untrusted.OddFileError(errno.EINVAL, "is another file by a hard link", str(path))


@contextmanager
def hold(folder: Path, descriptor: int, run: str) -> Iterator[None]:
    """Take the lock and say who holds it; closes the descriptor in the end.

    Args:
        folder: the run directory.
        descriptor: as `open_lock` gives it.
        run: the run's name, for messages.

    Raises:
        RunNameError: another process or thread holds it; says which, where and since when.
    """
    try:
        with atomic.storage_errors(folder, "read"):
            mine = _Hold(os.path.realpath(folder), descriptor, folder.stat())
    except StorageError:
        os.close(descriptor)
        raise
    _held.add(mine)
    try:
        _acquire(descriptor, folder, run)
        who = {"pid": os.getpid(), "host": socket.gethostname(), "started_at": now()}
        with atomic.storage_errors(folder / LOCK_FILE, "written"):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(who).encode(), 0)
        for left in (STOPPED_FILE, SERVED_FILE):  # who goes on wants it to go on
            with atomic.storage_errors(folder / left, "removed"):
                untrusted.remove(folder / left)
        _of_this_context.set(_of_this_context.get() | {mine})
        yield
    finally:
        _of_this_context.set(_of_this_context.get() - {mine})
        if mine in _held:  # a forked child has closed it already
            _held.remove(mine)
            os.close(descriptor)


def locked(descriptor: int, path: Path) -> bool:
    """Try to lock a file; gives whether nobody else has it locked.

    Raises:
        StorageError: its file system keeps no locks.
    """
    try:
        with atomic.storage_errors(path, "locked"):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except StorageError as error:
        if isinstance(error.__cause__, BlockingIOError):
            return False
        raise
    return True


def check_locks(folder: Path, key: str = "outputs_dir") -> None:
    """See that locks can be kept where the runs will lie; leaves nothing there.

    Args:
        folder: of the runs; where it is not there yet, the nearest above it is tried.
        key: how the user gave it, for the message.

    Raises:
        ConfigError: its file system keeps none.
    """
    there = next((path for path in (folder, *folder.parents) if atomic.is_folder(path)), folder)
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            locked(file.fileno(), there)
    except StorageError as error:
        raise ConfigError(
            f"{key} = {str(folder)!r}: {error}; without a lock two processes could advance one run"
        ) from error
    except OSError:
        return  # it cannot be written, which is said where that is tried


def usable_folder(folder: Path, key: str) -> Path:
    """A folder of runs that can be made and written, and keeps locks, as an absolute path; nothing is made yet.

    Args:
        folder: the folder, there or not.
        key: how the user gave it, for the message.

    Raises:
        ConfigError: it cannot serve.
    """
    target = check_target(key, folder)
    check_locks(target, key)
    return target


def holder(folder: Path) -> dict[str, Any] | None:
    """Who holds a run directory's lock: pid, host and started_at (None each while unknown); None when nobody does.

    Raises:
        StorageError: the lock's file cannot be read.
    """
    path = folder / LOCK_FILE
    if not atomic.is_there(path):
        return None
    with atomic.storage_errors(path, "read"), untrusted.reader(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # given back as the file closes
        except BlockingIOError:
            return _parse_holder(file.read(HOLDER_BYTES))
    return None


def _acquire(descriptor: int, folder: Path, run: str) -> None:
    for _ in range(LOOKS):
        if locked(descriptor, folder / LOCK_FILE):
            return
        time.sleep(LOOK_S)
    who = _parse_holder(os.pread(descriptor, HOLDER_BYTES, 0))
    if who["pid"] is None:
        raise RunNameError(
            f"run {run!r} is being advanced by process ?, which {folder / LOCK_FILE} does not name; wait for it, or "
            f"find it by `fuser {folder / LOCK_FILE}`, stop it and resume the run"
        )
    raise RunNameError(
        f"run {run!r} is being advanced by process {who['pid']} on {who['host']} since "
        f"{who['started_at']}; wait for it, or stop that process and resume the run"
    )


def _parse_holder(content: bytes) -> dict[str, Any]:
    """What a lock says of its holder; None for each where it says nothing that `hold` would have written."""
    try:
        said: Json = mapping(json.loads(content.decode()))
    except (ValueError, RecursionError):  # its holder is just about to write it
        said = {}
    kinds: dict[str, type] = {"pid": int, "host": str, "started_at": str}
    return {key: said.get(key) if type(said.get(key)) is kind else None for key, kind in kinds.items()}
