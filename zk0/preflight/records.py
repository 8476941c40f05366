"""What the checks before a run found."""

from pydantic import Field

from zk0.config import RunConfig
from zk0.data.findings import DataFinding, DataReport
from zk0.memory.estimate import MemoryEstimate
from zk0.work.records import Record


class Traits(Record):
    """What of a dataset is held against the others."""

    fps: float
    """Frames per second."""
    robot_type: str | None
    """As the recorder named it."""
    cameras: list[str]
    """Features that are pictures."""
    joints: list[str] | None
    """Names of the action's dimensions; None where it has none."""
    ranges: dict[str, tuple[list[float], list[float]]]
    """Of state and action: least and greatest value of each dimension, where all are finite."""
    rows_sha256: str
    """Digest of the values of state and action, in their order: the same recordings have the same."""


class Examined(Record):
    """What was found in one dataset, by a process of its own."""

    findings: list[DataFinding]
    """In the order of the checks."""
    frames: int | None = None
    """Its frames; None where its metadata cannot be read."""
    traits: Traits | None = None
    """None where its rows cannot be read."""
    files: dict[str, str] = Field(default_factory=dict)
    """Path within the dataset -> SHA-256; empty where its recordings are not here."""


def together(config: RunConfig, examined: list[Examined]) -> DataReport:
    """What was found in all datasets of a config.

    Args:
        config: the config.
        examined: one for each of its datasets, in their order.
    """
    names = [dataset.name for dataset in config.datasets]
    frames = {name: item.frames for name, item in zip(names, examined, strict=True) if item.frames is not None}
    return DataReport(findings=[finding for item in examined for finding in item.findings], frames=frames)


class Preflight(Record):
    """What the checks before a run found."""

    config: RunConfig
    """The config with everything settled that depends on the machine (policy.device)."""
    frames: dict[str, int]
    """Frames of every dataset, by name."""
    exchanged_bytes: int
    """Estimate of one set of exchanged tensors, in bytes."""
    files: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Path -> SHA-256 of every dataset whose recordings are here, by name."""
    memory: MemoryEstimate | None = None
    """Estimate of a fit's memory; None where none was made."""
    warnings: list[str] = Field(default_factory=list)
    """What a person should look at in the data; the run goes on."""
