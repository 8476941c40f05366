"""Which record of a service advances a run: so that one that was deleted is told from a database that was lost."""

from pathlib import Path

from zk0.errors import StorageError
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


def write(folder: Path, served: Served) -> None:
    """Remember it; whoever calls it holds the run's lock, and the next one to take that forgets it.

    Raises:
        StorageError: it cannot be written.
    """
    atomic.write_sealed(folder / SERVED_FILE, served.model_dump())


def read(folder: Path) -> Served | None:
    """Who advances the run, or did last; None where that is not known."""
    if not atomic.exists(folder / SERVED_FILE):
        return None
    try:
        return Served.model_validate(atomic.read_sealed(folder / SERVED_FILE, MOST_BYTES))
    except (StorageError, ValueError):
        return None
