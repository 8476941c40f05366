"""What a person wants of a run that stands still: on disk, so that whatever is lost, nothing automatic overrules it."""

import getpass
import socket
from contextlib import suppress
from pathlib import Path
from typing import Literal

from zk0.errors import DamageError, StorageError
from zk0.files import atomic
from zk0.layout import STOPPED_FILE
from zk0.runs.records import now
from zk0.work.records import Record

Want = Literal["interrupted", "cancelled", "suspended", "deleted"]
"""`interrupted`: ended by Ctrl-C; the others are done to a flow run in Prefect."""
MOST_BYTES = 2**16


class Will(Record):
    """That a person ended a run: it stands still until a person goes on with it."""

    what: Want
    """What was done."""
    who: str
    """`user@host`, or the program by which it was done."""
    at: str
    """ISO 8601, UTC."""
    why: str = ""
    """In words, where there are any."""

    @property
    def words(self) -> str:
        """For a person."""
        by = f" by {self.who}" if self.who else ""
        at = f" at {self.at[:16].replace('T', ' ')} UTC" if self.at else ""
        return f"{self.what}{by}{at}" + (f": {self.why}" if self.why else "")


def write(folder: Path, what: Want, who: str | None = None, why: str = "") -> Will:
    """Remember what a person wants of a run, until someone takes its lock.

    Args:
        folder: the run directory.
        what: was done.
        who: did it; who runs this process when left out.
        why: in words.

    Raises:
        StorageError: it cannot be written.
    """
    will = Will(what=what, who=somebody() if who is None else who, at=now(), why=why)
    atomic.write_sealed(folder / STOPPED_FILE, will.model_dump(mode="json"))
    return will


def read(folder: Path) -> Will | None:
    """What a person wants of a run; None where nobody ended it.

    What is damaged still says that somebody did: the empty files of earlier versions, too.

    Raises:
        StorageError: it cannot be read now.
    """
    path = folder / STOPPED_FILE
    if not atomic.is_there(path):
        return None
    try:
        return Will.model_validate(atomic.read_sealed(path, MOST_BYTES))
    except (DamageError, ValueError):
        return Will(what="interrupted", who="", at="", why="")


def shown(folder: Path) -> Will | None:
    """`read`, for one who only looks: what cannot be told now is left out."""
    with suppress(StorageError):
        return read(folder)
    return None


def somebody() -> str:
    """Who runs this process."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # an account without a name, as in a container
        user = "somebody"
    return f"{user}@{socket.gethostname()}"
