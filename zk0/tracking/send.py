"""`python -m zk0.tracking.send RUN_DIR KIND [SECONDS]`: bring one tracker up to date with a run's committed rounds."""

import fcntl
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import cast

from zk0.files import atomic
from zk0.layout import TRACKING_FOLDER
from zk0.runs.store import RunStore
from zk0.tracking.figures import figures, told_config
from zk0.tracking.tracker import KINDS, Told, Tracker

WITHIN_S = 60
"""Seconds: the kernel ends this process then, whatever it waits for."""
LATER = 10
"""Niceness: what trains goes first."""
SECRET = re.compile(r"KEY|TOKEN|PASSWORD|SECRET|CREDENTIAL", re.IGNORECASE)
FEWEST_LETTERS = 6
"""Of a secret; a shorter value is a word such as `true`."""
LONGEST = 300
"""Characters of a message."""


def bring_up_to_date(store: RunStore, kind: str) -> int:
    """Write every committed round that a tracker has not yet, one process at a time; gives how many it lacked.

    Args:
        store: the run; who advances it is not asked.
        kind: of KINDS.

    Raises:
        StorageError: the run directory cannot be read or written.
        Exception: whatever the tracker's own library raises.
    """
    folder = store.folder / TRACKING_FOLDER / kind
    with _alone(folder.with_suffix(".lock")):
        lines = {int(line["server_round"]): line for line in store.read_metrics()}
        if not lines:
            return 0
        tracker = _opened(_told(store, folder, max(lines)), kind)
        missing = tracker.missing({number: figures(line) for number, line in lines.items()})
        for number in sorted(missing):
            committed = lines[number].get("committed_at", store.info.created_at)  # which older versions did not note
            tracker.log(number, datetime.fromisoformat(committed), missing[number])
        tracker.close()
        return len(missing)


def _told(store: RunStore, folder: Path, newest: int) -> Told:
    config = store.config
    return Told(
        id=store.info.id,
        name=store.info.name,
        project=config.tracking.project,
        offline=config.tracking.mode == "offline",
        folder=folder,
        created=datetime.fromisoformat(store.info.created_at),
        config=told_config(config),
        finished=newest >= config.federation.num_rounds,
    )


def _opened(told: Told, kind: str) -> Tracker:
    atomic.make_folder(told.folder)
    module, _, name = KINDS[kind].maker.partition(":")
    return cast(Tracker, getattr(import_module(module), name)(told))


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Wait for whoever is at it: one that a killed run left behind ends by itself; see WITHIN_S."""
    atomic.make_folder(lock.parent)
    with atomic.storage_errors(lock, "locked"), lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def without_secrets(text: str, environment: Mapping[str, str]) -> str:
    """A library's words on one line, without what the environment keeps secret and without an address's password."""
    for name, value in environment.items():
        if SECRET.search(name) and len(value) >= FEWEST_LETTERS:
            text = text.replace(value, "***")
    return re.sub(r"://[^/@\s]+@", "://***@", " ".join(text.split()))[:LONGEST]


def main(run_dir: str, kind: str, within_s: str = str(WITHIN_S)) -> int:
    """Do it within bounds; what went wrong is one line on stdout, on which no library writes."""
    signal.alarm(int(within_s))
    os.nice(LATER)
    said = os.dup(sys.stdout.fileno())
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
    try:
        bring_up_to_date(RunStore.open(run_dir), kind)
    except Exception as error:  # noqa: BLE001 - what crosses a process keeps its text
        words = f"{type(error).__name__}: {error}"
        os.write(said, without_secrets(words, os.environ).encode("utf-8", "replace"))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
