"""What is compared: the ways to train, each a federation of one or more clients."""

from dataclasses import dataclass
from pathlib import Path

from zk0.sim import ZONES


@dataclass(frozen=True)
class Options:
    """What the benchmark is asked for."""

    episodes: int
    """Demonstrations of each client."""
    rounds: int
    steps: int
    """Optimizer steps of each client in each round."""
    batch_size: int
    lr: float
    seeds: int
    """Episodes per zone in closed loop."""
    seed: int
    work: Path
    """Folder of recordings and runs."""


@dataclass(frozen=True)
class Arm:
    """A way to train."""

    name: str
    clients: tuple[tuple[str, ...], ...]
    """Of each client of the federation, the zones whose recordings it has."""
    steps_factor: int = 1
    """Steps of a client in a round, as a multiple of Options.steps."""


def all_arms() -> list[Arm]:
    """The six ways, the longest first."""
    zones = tuple(ZONES)
    return [
        Arm("federated", tuple((zone,) for zone in zones)),
        Arm("pooled", (zones,), len(zones)),
        *(Arm(zone, ((zone,),)) for zone in zones),
    ]
