"""Clients whose updates were refused again and again: they sit out until a person removes what says so.

One file a client, `limits/<client>.admission.json` in the run directory, written before the round is committed in which
the client was refused once too often, and read before every later fit.
"""

from collections.abc import Sequence
from pathlib import Path

from loguru import logger
from pydantic import Field

from zk0.errors import DamageError, QuarantineError
from zk0.files import atomic
from zk0.layout import LIMITS_FOLDER
from zk0.work.records import ClientTask, Record


class Quarantine(Record):
    """Why a client sits out."""

    client: str
    """Its name."""
    server_round: int
    """The round of the last refusal; it sits out those after it."""
    reasons: list[str] = Field(min_length=1)
    """Why its update was refused, in each of the rounds running, oldest first."""


def path_of(run_dir: Path, client: str) -> Path:
    """Where it is written that a client sits out."""
    return run_dir / LIMITS_FOLDER / f"{client}.admission.json"


def put(run_dir: Path, client: str, server_round: int, reasons: Sequence[str]) -> None:
    """Have a client sit out all further rounds.

    Raises:
        StorageError: it cannot be written.
    """
    record = Quarantine(client=client, server_round=server_round, reasons=list(reasons))
    atomic.write_sealed(path_of(run_dir, client), record.model_dump(mode="json"))


def read(run_dir: Path, client: str) -> Quarantine | None:
    """Why a client sits out, or None; what is damaged is named in the log and counts as nothing.

    Raises:
        StorageError: it cannot be read now.
    """
    path = path_of(run_dir, client)
    try:
        if not atomic.is_there(path):
            return None
        with atomic.storage_errors(path, "read"):
            return Quarantine.model_validate(atomic.read_sealed(path))
    except DamageError as error:
        logger.warning("Why {} sits out is lost: {}", client, str(error).split(";", maxsplit=1)[0])
        return None


def check(task: ClientTask) -> None:
    """See that a client may train.

    Raises:
        QuarantineError: it sits out.
    """
    found = read(Path(task.run_dir), task.client) if task.kind == "train" else None
    if found is not None and task.server_round > found.server_round:
        raise QuarantineError(
            "bad_data",
            f"{task.client!r} is quarantined: its update was refused in {len(found.reasons)} rounds running "
            f"({found.reasons[-1]}); remove the cause, then remove {path_of(Path(task.run_dir), task.client)}",
        )
