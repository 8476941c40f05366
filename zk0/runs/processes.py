"""Which processes of a service live, as every machine sees that shares its folder of runs: each holds a file there.

`<outputs>/.processes/<flow run>`; the kernel frees it however the process dies, and a shared file system however its
machine does.
"""

import contextlib
import fcntl
import os
import time
from pathlib import Path
from uuid import UUID

from zk0.errors import StorageError
from zk0.files import atomic, untrusted
from zk0.files.locks import taken

FOLDER = ".processes"
FORGET_S = 86400.0
"""A file that nobody has held for so long, in seconds, is removed."""
_mine: list[int] = []
"""Descriptors, open for as long as this process lives."""


def show(outputs: str | Path, identity: str) -> None:
    """Be seen for as long as this process lives; what is wrong with the folder, the run itself says.

    Args:
        outputs: the folder of the runs.
        identity: what this process executes, a UUID.
    """
    with contextlib.suppress(OSError, StorageError, ValueError):
        path = Path(outputs) / FOLDER / str(UUID(identity))
        atomic.make_folder(path.parent)
        descriptor = untrusted.open_plain(path, os.O_RDWR | os.O_CREAT)
        _mine.append(descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _drop() -> None:
    """A forked child would keep this process alive for the others."""
    while _mine:
        os.close(_mine.pop())


os.register_at_fork(after_in_child=_drop)


def lives(outputs: Path, identity: str) -> bool:
    """Whether a process shows itself that executes something."""
    return _is_held(outputs / FOLDER / identity)


def forget(outputs: Path) -> None:
    """Remove the files of processes that have been gone for long."""
    with contextlib.suppress(OSError, StorageError):
        for path in atomic.listed(outputs / FOLDER):
            if time.time() - path.stat().st_mtime > FORGET_S and not _is_held(path):
                path.unlink()


def _is_held(path: Path) -> bool:
    try:
        descriptor = untrusted.open_plain(path, os.O_RDWR)
    except OSError:
        return False
    try:
        return not taken(descriptor, shared=True)
    except OSError:
        return True
    finally:
        os.close(descriptor)
