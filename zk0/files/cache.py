"""What may be lost at any time: records that spare work, in the user's cache folder; a broken one counts as none."""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from zk0.errors import StorageError
from zk0.files import FORK_SERVER_OF, atomic

FOLDER_VARIABLE = "ZK0_CACHE"
"""Environment variable: another folder than `zk0` in XDG_CACHE_HOME, or in ~/.cache."""
MOST_RECORDS = 1000
"""Of one kind; then the oldest go."""
MOST_BYTES = 16 * 2**20
MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of our own in it
"""Where files lie in memory."""


def folder() -> Path | None:
    """Where the records lie; None where there is no such place."""
    given, common = os.environ.get(FOLDER_VARIABLE), os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(given) if given else Path(common or "~/.cache").expanduser() / "zk0"
    except RuntimeError:  # a user without a home
        return None


def in_memory() -> Path | None:
    """A folder in memory of the process that this one works for: it goes when that has ended; None without such."""
    if not MEMORY.is_dir():
        return None
    _sweep()
    return MEMORY / f"zk0-{os.getuid()}-{os.environ.get(FORK_SERVER_OF) or os.getpid()}"


def forget(pid: int) -> None:
    """Remove what was kept in memory for a process."""
    shutil.rmtree(MEMORY / f"zk0-{os.getuid()}-{pid}", ignore_errors=True)


def _sweep() -> None:
    """Remove what was kept for processes that have ended without doing so."""
    for folder in MEMORY.glob(f"zk0-{os.getuid()}-*"):
        pid = folder.name.rpartition("-")[2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            forget(int(pid))


def read(kind: str, key: str) -> dict[str, Any]:
    """A record; empty where there is none that can be trusted.

    Args:
        kind: of records, a folder's name.
        key: a file's name: what the record depends on, as a digest.
    """
    where = folder()
    if where is None:
        return {}
    try:
        return atomic.read_sealed(where / kind / f"{key}.json", MOST_BYTES)
    except StorageError:
        return {}


def write(kind: str, key: str, record: dict[str, Any]) -> None:
    """Keep a record, where that can be done."""
    where = folder()
    if where is None:
        return
    with suppress(StorageError):
        atomic.write_sealed(where / kind / f"{key}.json", record)
        _prune(where / kind)


def _prune(kind: Path) -> None:
    with suppress(OSError):
        records = list(kind.glob("*.json"))
        if len(records) > MOST_RECORDS:
            for path in sorted(records, key=lambda path: path.stat().st_mtime)[: MOST_RECORDS // 2]:
                path.unlink(missing_ok=True)
