"""What is compared: the ways to train, each a federation of one or more clients."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """What the benchmark is asked for."""

    bench: str
    """Name of what is learned: a key of `benchmarks.federation_value.benches.BENCHES`."""
    episodes: int
    """Demonstrations of each client."""
    rounds: int
    steps: int
    """Optimizer steps of each client in each round."""
    batch_size: int
    lr: float
    seeds: int
    """Episodes in each setting in closed loop."""
    seed: int
    work: Path
    """Folder of recordings, runs and scores."""


@dataclass(frozen=True)
class Arm:
    """A way to train."""

    name: str
    clients: tuple[tuple[str, ...], ...]
    """Of each client of the federation, the settings whose recordings it has; none: the policy as it begins."""
    steps_factor: int = 1
    """Steps of a client in a round, as a multiple of Options.steps."""


FEDERATED, POOLED, ROUND_0 = "federated", "pooled", "round-0"


def all_arms(settings: tuple[str, ...], with_round_0: bool) -> list[Arm]:
    """Every way for these clients, the longest first; round 0 says something of a policy that has learned before."""
    return [
        Arm(FEDERATED, tuple((setting,) for setting in settings)),
        Arm(POOLED, (settings,), len(settings)),
        *(Arm(setting, ((setting,),)) for setting in settings),
        *([Arm(ROUND_0, ())] if with_round_0 else []),
    ]
