"""Where a run is carried out, what is kept and what is shown of it; none of it changes the run's result.

The tables [executor], [checkpoint], [report], [tracking], [logging] and [memory].
"""

import os
from functools import lru_cache
from typing import Annotated, Any, Literal

from loguru import logger
from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from zk0.config.part import Name, Part, size_in_bytes
from zk0.config.paths import FilePath

LONGEST_S = 2_000_000
"""Seconds, 23 days: more than this a process cannot wait for another."""
DAY_S = 86_400
PROJECT_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
"""A name that every tracker takes."""
MOST_CPUS = 100_000
"""Cores: more would be no number of nanoseconds for Docker."""


class DockerConfig(Part):
    """The containers of `executor.kind = "docker"`: see [docker.md](docker.md)."""

    image: str = Field(default="zk0:latest", min_length=1)
    """The image, built from the Dockerfile of the same zk0: other versions in it are refused."""
    gpus: list[str] | None = None
    """GPUs that may be used, by index or UUID, one container on each at a time; `[]` is none. When absent: all that
    `nvidia-smi` lists if the policy trains on `cuda`, else none."""
    shm_size: str = "10.24g"
    """Size of a container's /dev/shm, through which DataLoader processes hand batches over; counts as its memory."""
    mem_limit: str | None = None
    """Most memory of a container; what needs more is killed and counts as failed (cause `out_of_memory`). When absent:
    what is free when it starts, less a reserve of a tenth of all memory (at least 2 GiB), divided by max_parallel."""
    cpus: float | None = Field(default=None, gt=0, le=MOST_CPUS)
    """Processor time that a container may use, in cores; all when absent."""
    mounts: list[FilePath] = Field(default_factory=list)
    """Further folders that a container may read, at the same path: such as those that links in a dataset lead to, and
    file systems that are mounted inside another such folder or a dataset."""

    @field_validator("gpus", mode="before")
    @classmethod
    def _indices_are_names(cls, gpus: Any) -> Any:
        return [str(gpu) if type(gpu) is int else gpu for gpu in gpus] if isinstance(gpus, list) else gpus

    @field_validator("shm_size", "mem_limit")
    @classmethod
    def _size(cls, value: str | None) -> str | None:
        if value is not None:
            size_in_bytes(value)
        return value

    @field_validator("mounts")
    @classmethod
    def _absolute(cls, mounts: list[str]) -> list[str]:
        if odd := [folder for folder in mounts if not folder.startswith("/")]:
            raise ValueError(f"{odd[0]!r} is not absolute; give the folder's path from / on")
        return mounts


class ExecutorConfig(Part):
    """Where a client's work runs, and what happens when it dies. None of it changes the result of a run."""

    kind: Name = "process"
    """`process`: each piece of work in a process of its own; `docker`: in a container of its own; `superlink`: on the
    node of the client's owner, see [federation.md](federation.md); or the name of an executor that an installed package
    gives, see [extending.md](extending.md)."""
    options: dict[str, Any] = Field(default_factory=dict)
    """What an executor of another package is told."""
    max_parallel: int | None = Field(default=None, ge=1)
    """Clients at work at the same time. When absent: one; in containers, one on each GPU that may be used; or as
    many as another package's executor says."""
    timeout_s: float = Field(default=3600.0, gt=0, le=LONGEST_S)
    """A fit that takes longer than this is killed and counts as failed (cause `timeout`), in seconds."""
    max_retries: int = Field(default=2, ge=0)
    """Further attempts after a failure that may pass; then the client sits out the round."""
    retry_delay_s: float = Field(default=2.0, ge=0, le=DAY_S)
    """Pause before a further attempt, in seconds."""
    docker: DockerConfig = DockerConfig()
    """The containers of `executor.kind = "docker"`; see [docker.md](docker.md)."""
    link: FilePath | None = None
    """Folder of the link over which `superlink` reaches the nodes; `zk0 link keys` makes it."""
    away_s: float = Field(default=600.0, gt=0, le=LONGEST_S)
    """A client whose node is away for longer than this sits out the round (cause `lost`), in seconds."""

    @property
    def places(self) -> int:
        """Clients that may be at work at the same time, as settled before the run."""
        return self.max_parallel or 1


class CheckpointConfig(Part):
    """What is saved while a client trains, and what is kept of old rounds."""

    every_steps: int = Field(default=50, ge=0)
    """Steps after which a fit under way saves its state: killed, it repeats at most these and ends with the same bytes.
    0 saves none."""

    keep: int = Field(default=3, ge=2)
    """Newest committed rounds kept whole; round 0 and the best round are kept besides."""


class ReportConfig(Part):
    """What a run shows besides its figures; none of it changes the result of a run."""

    joint_charts: bool = False
    """Draw the joints as predicted beside those recorded, for the first held-out episode of every dataset, after each
    full evaluation. For this the joints' positions in that one episode leave the client; no images do."""


class TrackingConfig(Part):
    """Trackers that show a run's rounds beside those of others; see [tracking.md](tracking.md)."""

    kinds: list[Literal["tensorboard", "wandb", "trackio", "mlflow"]] = Field(default_factory=list)
    """The trackers, each installed by the extra of its name: `pip install 'zk0[tensorboard]'`."""
    project: Annotated[str, Field(pattern=PROJECT_PATTERN)] = "zk0"
    """Under which name a tracker shows the run beside others: the project of Weights & Biases and of trackio, MLflow's
    experiment. TensorBoard has none."""
    mode: Literal["offline", "online"] = "offline"
    """`offline`: all stays in `tracking/` of the run directory; `online`: where the tracker's own settings say, such as
    WANDB_BASE_URL, MLFLOW_TRACKING_URI or TRACKIO_DIR. TensorBoard's files stay in the run directory."""

    @field_validator("kinds")
    @classmethod
    def _each_once(cls, kinds: list[str]) -> list[str]:
        if doubled := sorted({kind for kind in kinds if kinds.count(kind) > 1}):
            raise ValueError(f"given more than once: {', '.join(doubled)}; name each tracker once")
        return kinds


class LoggingConfig(Part):
    """Loguru's sinks."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe level written to run.log and client.log."""
    rotation: str = "500 MB"
    """Size or age at which run.log is rotated (Loguru's spelling)."""
    retention: str = "10 days"
    """Age at which rotated logs are removed (Loguru's spelling)."""

    @field_validator("rotation", "retention")
    @classmethod
    def _as_loguru_reads_it(cls, value: str, info: ValidationInfo) -> str:
        if (fault := _unread_by_loguru(str(info.field_name), value)) is not None:
            raise PydanticCustomError("loguru", "{fault}", {"fault": fault})
        return value


@lru_cache
def _unread_by_loguru(key: str, value: str) -> str | None:
    """Why Loguru cannot read `rotation` or `retention`; None where it can. No file is made, and nothing is logged."""
    limits: dict[str, Any] = {"rotation": "1 GB", "retention": "1 day", key: value}
    try:
        logger.remove(logger.add(f"{os.devnull}/none", delay=True, filter=lambda _: False, **limits))
    except (ValueError, OverflowError) as error:
        example = "'500 MB', '1 day' or '00:00'" if key == "rotation" else "'10 days'"
        return f"{str(error)[:200]}; write it as {example}"
    return None


class MemoryConfig(Part):
    """What is watched of memory, and what happens before it runs out; while it is enough the result does not change."""

    sample_interval_s: float = Field(default=2.0, ge=0.05, le=DAY_S)
    """Time from one sample in memory.jsonl to the next, in seconds."""
    soft_limit: float | str = 0.9
    """How much of the host's memory a fit may come to use before it ends itself with a checkpoint and is done again in
    half the micro-batch: a share of what it can have (above 0, at most 1), or a size such as "6g"; 0 for no limit."""
    probe: bool = True
    """Try one small step before a new run, to estimate what a fit needs and to begin with a micro-batch that fits."""

    @field_validator("soft_limit")
    @classmethod
    def _share_or_size(cls, value: float | str) -> float | str:
        if isinstance(value, str):
            size_in_bytes(value)
        elif not 0 <= value <= 1:
            raise ValueError(f'{value} is no share from 0 to 1; write a size with its unit, such as "6g"')
        return value
