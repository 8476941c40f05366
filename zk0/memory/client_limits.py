"""What is known of a client's memory: the micro-batch that it can bear, found by running out, kept for later rounds.

One file per client and kind of work, `limits/<client>.<kind>.json` in the run directory, written by the process that
holds the run's lock. A file that is damaged costs the knowledge, which the next out-of-memory brings back.
"""

from datetime import UTC, datetime
from pathlib import Path

from loguru import logger

from zk0.errors import DamageError
from zk0.files import atomic
from zk0.layout import LIMITS_FOLDER
from zk0.work.records import ClientTask, Record, TaskKind

KEPT = 30
"""Notes kept of a client: enough for every halving of a batch of millions."""


class Note(Record):
    """One time that a client ran out of memory, or was expected to."""

    micro_batch_size: int
    """Frames at once, then."""
    server_round: int
    """The round."""
    figures: str
    """What it used and what it could have, in one line."""
    at: str
    """ISO 8601, UTC."""


class Finding(Record):
    """What one client can bear."""

    client: str
    """Its name."""
    kind: TaskKind
    """The work that it is about."""
    micro_batch_size: int
    """Frames at once from now on; 0: not even one fits, the client is quarantined."""
    notes: list[Note]
    """How that was found, oldest first."""

    @property
    def quarantined(self) -> bool:
        """Whether not even one frame at once fits."""
        return self.micro_batch_size < 1

    def story(self) -> str:
        """What was tried, in one line."""
        return "; ".join(f"micro-batch {note.micro_batch_size}: {note.figures}" for note in self.notes)


def path_of(run_dir: Path, client: str, kind: TaskKind) -> Path:
    """Where a client's finding is kept."""
    return run_dir / LIMITS_FOLDER / f"{client}.{kind}.json"


def read(run_dir: Path, client: str, kind: TaskKind) -> Finding | None:
    """What was found, or None; what is damaged is named in the log and counts as nothing.

    Raises:
        StorageError: it cannot be read now.
    """
    path = path_of(run_dir, client, kind)
    try:
        if not atomic.is_there(path):
            return None
        with atomic.storage_errors(path, "read"):
            return Finding.model_validate(atomic.read_sealed(path))
    except DamageError as error:
        logger.warning("What was found of {}'s memory is lost: {}", client, str(error).split(";", maxsplit=1)[0])
        return None


def ran_out(task: ClientTask, size: int, figures: str) -> Finding:
    """Remember that a client ran out of memory with `size` frames at once: half of them from now on, and below 1 none.

    Raises:
        StorageError: it cannot be written.
    """
    run_dir = Path(task.run_dir)
    before = read(run_dir, task.client, task.kind)
    notes = [*(before.notes if before else []), note(size, task.server_round, figures)][-KEPT:]
    finding = Finding(client=task.client, kind=task.kind, micro_batch_size=size // 2, notes=notes)
    _write(run_dir, finding)
    return finding


def note(size: int, server_round: int, figures: str) -> Note:
    """A note of now."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Note(micro_batch_size=size, server_round=server_round, figures=figures, at=now)


def expect(run_dir: Path, client: str, kind: TaskKind, size: int, estimate: Note) -> None:
    """Remember an estimate: no more than `size` frames at once. What experience has shown is left as it is.

    Raises:
        StorageError: it cannot be written.
    """
    if read(run_dir, client, kind) is None:
        _write(run_dir, Finding(client=client, kind=kind, micro_batch_size=size, notes=[estimate]))


def _write(run_dir: Path, finding: Finding) -> None:
    atomic.write_sealed(path_of(run_dir, finding.client, finding.kind), finding.model_dump(mode="json"))
