"""Frames that each client trains on, as they were counted before the run: nobody's own word.

`limits/frames.json` in the run directory; runs that are older have none.
"""

from collections.abc import Mapping
from pathlib import Path

from zk0.files import atomic
from zk0.layout import LIMITS_FOLDER
from zk0.work.records import Record

FRAMES_FILE = "frames.json"


class Counted(Record):
    """What was counted."""

    training: dict[str, int]
    """Client -> frames of its training episodes."""


def keep(run_dir: Path, training: Mapping[str, int]) -> None:
    """Write it down, once: a run that exists keeps what it has.

    Raises:
        StorageError: it cannot be written.
    """
    path = run_dir / LIMITS_FOLDER / FRAMES_FILE
    if training and not atomic.is_there(path):
        atomic.write_sealed(path, Counted(training=dict(training)).model_dump(mode="json"))


def add(run_dir: Path, client: str, frames: int) -> None:
    """Write down those of a client that joined when the run had begun.

    Raises:
        StorageError: it cannot be written, or read.
    """
    known = read(run_dir)
    if client not in known:
        record = Counted(training={**known, client: frames})
        atomic.write_sealed(run_dir / LIMITS_FOLDER / FRAMES_FILE, record.model_dump(mode="json"))


def read(run_dir: Path) -> dict[str, int]:
    """Client -> frames that it trains on; empty where nobody counted them.

    Raises:
        StorageError: the file is there and cannot be read, or is damaged.
    """
    path = run_dir / LIMITS_FOLDER / FRAMES_FILE
    if not atomic.is_there(path):
        return {}
    with atomic.storage_errors(path, "read"):
        return Counted.model_validate(atomic.read_sealed(path)).training
