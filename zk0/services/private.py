"""Files that only their owner may read, such as keys: made so, never overwritten, looked at before they are used."""

import os
import stat
from pathlib import Path

from zk0.errors import BadInputError
from zk0.files import atomic

OTHERS = stat.S_IRWXG | stat.S_IRWXO


def write_new(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file that is not there yet, durably.

    Args:
        path: the file.
        content: all of it.
        mode: who may read it.

    Raises:
        BadInputError: it is there.
        StorageError: it cannot be written.
    """
    with atomic.storage_errors(path, "written"):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        except FileExistsError as error:
            raise BadInputError(f"{path} is there already and is not overwritten; choose another folder") from error
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        atomic.sync_folder(path.parent)


def make_private_folder(folder: Path) -> None:
    """Make a folder that only its owner may enter; one that is there stays as it is.

    Raises:
        StorageError: it cannot be made.
    """
    if not atomic.exists(folder):
        atomic.make_folder(folder)
        with atomic.storage_errors(folder, "made private"):
            folder.chmod(0o700)


def check_private(path: Path) -> None:
    """Refuse a key that others could have read.

    Raises:
        BadInputError: it is missing, no plain file, or open to others.
    """
    try:
        mode = path.lstat().st_mode
    except OSError as error:
        raise BadInputError(
            f"{path}: cannot be read ({error.strerror}); put the key back, or make a new one"
        ) from error
    if not stat.S_ISREG(mode):
        raise BadInputError(f"{path}: is no plain file; put the key itself there")
    if mode & OTHERS:
        raise BadInputError(f"{path}: others on this machine may read this key; run: chmod 600 {path}")
