"""The logs of what zk0 starts beside runs, the server and the worker, kept within bounds."""

import contextlib
import os
import shutil
from pathlib import Path

SERVER_LOG = "zk0-server.log"
WORKER_LOG = "zk0-worker.log"
"""Names in PREFECT_HOME."""
MOST_BYTES = 10 * 2**20
"""Of one log; as much again of what it said before."""


def keep_within_bounds(home: Path) -> None:
    """Rotate the logs that have grown too large: who writes into them goes on, at their new end.

    Args:
        home: PREFECT_HOME.
    """
    for name in (SERVER_LOG, WORKER_LOG):
        rotate(home / name)


def rotate(log: Path, most: int = MOST_BYTES) -> None:
    """Move what a log says to `<name>.1`, and empty it, where it is too large.

    Its writers hold it open, to append: a log that was moved would grow on elsewhere.

    Args:
        log: the file; it may be absent.
        most: bytes.
    """
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size <= most:
            return
        with contextlib.suppress(OSError):  # a full disk keeps nothing of before
            shutil.copyfile(log, log.with_name(f"{log.name}.1"))
        os.truncate(log, 0)
