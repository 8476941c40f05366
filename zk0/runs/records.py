"""What a run's own files say: run.json, a round's manifest, and the state that the next round starts from."""

from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from pydantic import Field

from zk0.work.records import ArtifactRef, Record


class RoundState(Record):
    """A committed round: what the next one starts from."""

    server_round: int
    """The round."""
    arrays: ArtifactRef
    """The global exchanged tensors after the round."""
    stats: ArtifactRef | None = None
    """Federated normalisation statistics (written in round 0), or None."""
    optimizers: dict[str, ArtifactRef] = Field(default_factory=dict)
    """Client -> its optimizer's state after its last fit, with training.optimizer_state = "keep"; in this round's own
    folder, whatever round that fit was in."""


class Manifest(Record):
    """`manifest.json`, written last: a round is committed when it is there and every digest in it holds."""

    run_id: str
    """Identity of the run."""
    config_digest: str
    """RunConfig.digest."""
    state: RoundState
    """What the next round starts from."""
    files: list[ArtifactRef]
    """Every file of the commit except the manifest itself."""


class RunInfo(Record):
    """`run.json`: what a run is."""

    id: str
    """Identity: a pure function of name and config, so that the same run made again finds its own work."""
    name: str
    """Name of the folder."""
    config: dict[str, Any]
    """The full RunConfig."""
    config_digest: str
    """RunConfig.digest."""
    seed: int
    """RunConfig.seed."""
    created_at: str
    """ISO 8601, UTC."""
    versions: dict[str, str]
    """Package -> version that the run was created with."""
    data: dict[str, str] = Field(default_factory=dict)
    """Dataset -> digest of its files' names and contents; what was not here yet is added when the run goes on."""


def digest_of(files: Mapping[str, str]) -> str:
    """One digest of a dataset, from its files: path -> SHA-256."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items()))
    return sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


RECORDINGS = "recordings"
"""What stands for all files of a dataset whose node tells no more of them than one digest."""


def told_files(recordings: str) -> dict[str, str]:
    """The files of a dataset that is on a node, as the coordinator knows them.

    Args:
        recordings: `digest_of` them, as the node says.
    """
    return {RECORDINGS: recordings}


def now() -> str:
    """The time, ISO 8601 in UTC, as the files of a run have it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
