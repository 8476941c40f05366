"""What the checks before a run found."""

from pydantic import Field

from zk0.config import RunConfig
from zk0.memory.estimate import MemoryEstimate
from zk0.work.records import Record


class Preflight(Record):
    """What the checks before a run found."""

    config: RunConfig
    """The config with everything settled that depends on the machine (policy.device)."""
    frames: dict[str, int]
    """Frames of every dataset, by name."""
    training_frames: dict[str, int] = Field(default_factory=dict)
    """Of every client, the frames that it trains on; empty where they could not be counted."""
    exchanged_bytes: int
    """Estimate of one set of exchanged tensors, in bytes."""
    memory: MemoryEstimate | None = None
    """Estimate of a fit's memory; None where none was made."""
    warnings: list[str] = Field(default_factory=list)
    """What a person should look at in the data; the run goes on."""
