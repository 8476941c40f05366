"""Which record of a service advances a run: so that one that was deleted is told from a database that was lost."""

import os
from pathlib import Path

from zk0.errors import DamageError
from zk0.files import atomic
from zk0.layout import SERVED_FILE
from zk0.work.records import Record

MOST_BYTES = 2**16


class Served(Record):
    """Who advances a run, as a service's database has it."""

    flow_run: str
    """Its id there."""
    database: str
    """What no other database of that service has: the id of the flow."""
    folder: str = ""
    """The run directory, as `write` saw it: a copy of that, or where it was moved to, is another run to the service."""


def write(folder: Path, served: Served) -> None:
    """Remember it; whoever calls it holds the run's lock, and the next one to take that forgets it.

    Raises:
        StorageError: it cannot be written.
    """
    told = served.model_copy(update={"folder": os.path.realpath(folder)})
    atomic.write_sealed(folder / SERVED_FILE, told.model_dump())


def read(folder: Path) -> Served | None:
    """Who advances the run in this folder, or did last; None where that is not known.

    Raises:
        StorageError: it cannot be read now.
    """
    if not atomic.is_there(folder / SERVED_FILE):
        return None
    try:
        served = Served.model_validate(atomic.read_sealed(folder / SERVED_FILE, MOST_BYTES))
    except (DamageError, ValueError):
        return None
    return served if served.folder in ("", os.path.realpath(folder)) else None
