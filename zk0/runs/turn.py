"""Whose turn it is in a folder of runs: one served run at a time, and one that was killed keeps its turn."""

import errno
import os
import re
from pathlib import Path
from typing import Self

from zk0.config.paths import absolute_path
from zk0.errors import StorageError
from zk0.files import atomic, untrusted
from zk0.layout import TURN_FILE
from zk0.runs.lock import locked

OWNER = re.compile(r"[0-9a-f-]{0,36}")
"""An id as Prefect has them."""
MOST_BYTES = 4096
"""More than an owner's name has."""


class Turn:
    """The turn in one folder; the kernel gives it back however its holder dies, and its owner's name stays.

    Args:
        outputs: the folder of the runs.

    Raises:
        StorageError: it cannot be written.
    """

    def __init__(self, outputs: str | Path) -> None:
        folder = absolute_path(outputs)
        self._path = folder / TURN_FILE
        with atomic.storage_errors(self._path, "written"):
            folder.mkdir(parents=True, exist_ok=True)
            self._descriptor = untrusted.open_plain(self._path, os.O_RDWR | os.O_CREAT)
        try:
            self._check_ours()
        except StorageError:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def take(self) -> bool:
        """Take it, unless a process that lives has it.

        Raises:
            StorageError: the file system keeps no locks.
        """
        return locked(self._descriptor, self._path)

    def _check_ours(self) -> None:
        """Take no file that has another name, too, and no owner's in it: it would be written."""
        if os.fstat(self._descriptor).st_nlink > 1 and not OWNER.fullmatch(self.owner or ""):
            with atomic.storage_errors(self._path, "written"):
                raise untrusted.OddFileError(errno.EINVAL, "is another file by a hard link", str(self._path))

    @property
    def owner(self) -> str | None:
        """Whose it is, or was when its holder was killed; None where the last one was done with it."""
        with atomic.storage_errors(self._path, "read"):
            return os.pread(self._descriptor, MOST_BYTES, 0).decode(errors="replace").strip() or None

    @owner.setter
    def owner(self, owner: str | None) -> None:
        with atomic.storage_errors(self._path, "written"):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, (owner or "").encode(), 0)
