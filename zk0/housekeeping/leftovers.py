"""Old runs, rounds that were set aside, and zk0's cache: what may be removed, and how large it is."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from zk0.config.paths import absolute_path
from zk0.errors import RunNameError
from zk0.files import atomic, cache
from zk0.layout import LOCK_FILE, ROUNDS_FOLDER
from zk0.runs import lock
from zk0.runs.store import RunStore, is_finished


@dataclass(frozen=True)
class Leftover:
    """Something that may go."""

    what: str
    """In words."""
    path: Path
    size: int
    """Bytes of its files."""
    run: RunStore | None = None
    """The run that it is of, or is: nobody may advance it while it goes."""


def find(outputs: Path, runs: Sequence[str], keep: int | None) -> list[Leftover]:
    """What may be removed.

    Args:
        outputs: the folder of the runs.
        runs: names of runs that are to go, whatever their state.
        keep: finished runs that stay, the newest; all when None.

    Raises:
        RunNameError: there is no such run.
        StorageError: a folder cannot be read.
    """
    going = {store.folder: store for store in (RunStore.open(outputs, name) for name in runs)}
    folder = absolute_path(outputs)
    known = RunStore.list_runs(folder) if atomic.is_folder(folder) else []
    finished = [store for store in known if is_finished(store) and store.holder() is None]
    if keep is not None:
        going |= {store.folder: store for store in finished[keep:]}
    found = [Leftover("run", store.folder, _size(store.folder), store) for store in going.values()]
    for store in finished:
        if store.folder not in going:
            found += _set_aside(store)
    place = cache.folder()
    if place is not None and atomic.is_folder(place) and (size := _size(place)):
        found.append(Leftover("cache of checks", place, size))
    return found


def remove(item: Leftover) -> None:
    """Remove it; what is a run's, while nobody else has the run.

    Raises:
        RunNameError: somebody advances the run.
        StorageError: it cannot be removed.
    """
    if item.run is None:
        atomic.remove_folder(item.path)
        return
    descriptor = lock.open_lock(item.run.folder)
    try:
        if not lock.locked(descriptor, item.run.folder / LOCK_FILE):
            name = item.run.info.name
            raise RunNameError(f"run {name!r} is being advanced, and is not removed; wait for it, or stop it first")
        atomic.remove_folder(item.path)
    finally:
        os.close(descriptor)


def _set_aside(store: RunStore) -> Iterator[Leftover]:
    for path in atomic.listed(store.folder / ROUNDS_FOLDER):
        if re.fullmatch(r"\d{4,}\.damaged-\d+", path.name):
            yield Leftover("round that was set aside as damaged", path, _size(path), store)


def _size(folder: Path) -> int:
    with atomic.storage_errors(folder, "measured"):
        return sum(path.lstat().st_size for path in folder.rglob("*"))
