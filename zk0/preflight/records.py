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
    exchanged_bytes: int
    """One set of exchanged tensors, in bytes."""
    base_bytes: int = 0
    """The base that the run must keep in its own directory."""
    memory: MemoryEstimate | None = None
    """Estimate of a fit's memory; None where none was made."""
    warnings: list[str] = Field(default_factory=list)
    """What a person should look at in the data; the run goes on."""
