"""What the checks before a run found."""

from typing import Any

from pydantic import Field

from zk0.config import RunConfig
from zk0.data.findings import DataFinding
from zk0.memory.estimate import MemoryEstimate
from zk0.work.records import Record

MOST_FEATURES = 256
"""Of a dataset on a node."""


class Ranges(Record):
    """Where each joint of a recording is; a number for each in all of them."""

    low: list[float]
    """5 % of the values are below."""
    high: list[float]
    """5 % are above."""
    least: list[float]
    most: list[float]
    at_end: list[float]
    """Share of the rows just at 100 or -100."""


class Rows(Record):
    """Digests of a recording's rows, without what they say."""

    digests: list[int]
    """Of state and action in a row, 64 bits each; a sample where there are many rows: see `every`."""
    episodes: list[int]
    """The episode of each."""
    every: int
    """A power of two of which all these digests are multiples; 1 where all rows are here."""


class Traits(Record):
    """What of a dataset is held against the others."""

    fps: float
    """Frames per second."""
    robot_type: str | None
    """As the recorder named it."""
    cameras: dict[str, list[int]]
    """Feature -> shape of its pictures."""
    joints: dict[str, list[str]]
    """State and action -> names of their dimensions."""
    ranges: dict[str, Ranges]
    """State and action -> where they are, of the rows that are finite."""
    rows: Rows | None
    """None where there is neither state nor action."""


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


class Described(Record):
    """What a node says of its client before a run: figures, names and a digest; no recording, and no folder."""

    recordings: str
    """Digest of the files' names and contents."""
    frames: int
    """All frames."""
    training_frames: int
    """Those of the episodes that are trained on."""
    fps: float
    robot_type: str | None
    features: dict[str, Any] = Field(max_length=MOST_FEATURES)
    """As LeRobot's info.json has them: type, shape and names of each."""
    traits: Traits | None
    """For comparison with the others; without what its rows are."""
    exchanged_bytes: int
    """One set of exchanged tensors, in bytes."""
    base_bytes: int
    """The base that the run must keep in its own directory."""
    memory: MemoryEstimate | None
    """Of a fit on the node."""
    warnings: list[str]
    """What a person should look at in the data."""
    versions: dict[str, str]
    """Of the node's packages."""
    device: str
    """What it trains on."""


class Preflight(Record):
    """What the checks before a run found."""

    config: RunConfig
    """The config with everything settled that depends on the machine (policy.device)."""
    frames: dict[str, int]
    """Frames of every dataset, by name."""
    training_frames: dict[str, int] = Field(default_factory=dict)
    """Of every client, the frames that it trains on; empty where they could not be counted."""
    exchanged_bytes: int
    """One set of exchanged tensors, in bytes."""
    base_bytes: int = 0
    """The base that the run must keep in its own directory."""
    files: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Path -> SHA-256 of every dataset whose recordings are here, by name."""
    described: dict[str, Described] = Field(default_factory=dict)
    """What the nodes of a link say, by client."""
    memory: MemoryEstimate | None = None
    """Estimate of a fit's memory; None where none was made."""
    warnings: list[str] = Field(default_factory=list)
    """What a person should look at in the data; the run goes on."""


class Leaf(Record):
    """One thing that leaves."""

    when: str
    """Before the first round, or in each."""
    what: str
    """Its name."""
    shape: str = ""
    """Of a tensor."""
    size: int = 0
    """Bytes of a tensor; 0 for figures."""
