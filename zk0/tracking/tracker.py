"""What a tracker is to zk0, and which there are; what is written into it comes from the committed rounds alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from zk0.config import RunConfig
from zk0.errors import ConfigError

type Figures = Mapping[str, float]
"""Name -> value, of one round; named as docs/metrics.md does, with slashes: `train/kitchen/loss`."""


@dataclass(frozen=True)
class Told:
    """What a tracker is told of a run."""

    id: str
    """The run's identity: the tracker's run of this id goes on, whoever began it."""
    name: str
    """Of the run."""
    project: str
    """tracking.project."""
    offline: bool
    """Whether nothing leaves this machine: tracking.mode."""
    folder: Path
    """The tracker's own in the run directory, for what it keeps here."""
    created: datetime
    """When the run was created."""
    config: Mapping[str, Any]
    """What was asked for, without a path, place or name of this machine."""
    finished: bool
    """Whether every round is committed."""


class Tracker(Protocol):
    """One tracker's run, opened for a moment; what it has of a round already it is not given again."""

    def missing(self, rounds: Mapping[int, Figures]) -> Mapping[int, Figures]:
        """What of these the tracker has not yet, by what it says itself: a note of our own could be lost, or lie."""
        ...

    def log(self, server_round: int, at: datetime, figures: Figures) -> None:
        """Write a round as the step of its number.

        Args:
            server_round: the round.
            at: when it was committed.
            figures: of it.
        """
        ...

    def close(self) -> None:
        """Have everything written."""
        ...


class Kind(NamedTuple):
    """One of the trackers."""

    module: str
    """What it imports."""
    maker: str
    """Our class for it, as `module:Class`."""


KINDS: dict[str, Kind] = {
    "tensorboard": Kind("tensorboard", "zk0.tracking.tensorboard:TensorBoard"),
    "wandb": Kind("wandb", "zk0.tracking.wandb:WeightsAndBiases"),
    "trackio": Kind("trackio", "zk0.tracking.trackio:Trackio"),
    "mlflow": Kind("mlflow", "zk0.tracking.mlflow:MLflow"),
}
"""tracking.kinds -> what it takes; zk0's extra has the same name."""


def check(config: RunConfig) -> None:
    """See that the wanted trackers are installed.

    Raises:
        ConfigError: one is not.
    """
    for kind in config.tracking.kinds:
        found = find_spec(KINDS[kind].module)
        if found is None or found.origin is None:  # a folder of the name in the working directory has no origin
            raise ConfigError(
                f"tracking.kinds = {config.tracking.kinds}: {kind} is not installed; "
                f"`pip install 'zk0[{kind}]'`, or leave it out"
            )
