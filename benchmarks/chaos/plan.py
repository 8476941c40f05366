"""Which kills a campaign does: a deck of victims and phases, shuffled by the seed."""

import random

from benchmarks.chaos.phases import AIMS, ANY, PHASES
from benchmarks.chaos.victims import CLIENT, EVERYTHING, FLOW, FORKSERVER, SERVE, SERVER, WORKER
from benchmarks.chaos.watch import Shot

_ALL = tuple(AIMS)
_SOME = (
    "sampling",
    "fit",
    "writing an update",
    "aggregation",
    "evaluation",
    "commit: metrics.json",
    "commit: manifest.json",
)
_DECK = (
    *((FLOW, phase) for phase in (*_ALL, *_ALL, ANY, ANY)),
    *((EVERYTHING, phase) for phase in (*_SOME, "final policy", ANY)),
    *((CLIENT, phase) for phase in ("preparation", *["fit", "writing an update"] * 5, *["evaluation"] * 4)),
    *((FORKSERVER, phase) for phase in ("preparation", *["fit"] * 4, *["writing an update", "evaluation"] * 2)),
    *((FORKSERVER, phase) for phase in ("final policy", ANY)),
    *((victim, phase) for victim in (SERVER, WORKER, SERVE) for phase in (*_SOME, "between rounds", ANY, ANY, ANY)),
)
"""A hundred kills, every phase twice by the death of the flow's process alone."""
LONGEST_RANDOM_S = 20.0
"""Of the pause before a kill at any moment."""


def deck(seed: int, kills: int) -> list[tuple[str, str]]:
    """(victim, phase) of every kill, in a random order; each pair once before any comes again."""
    rng = random.Random(seed)
    cards: list[tuple[str, str]] = []
    while len(cards) < kills:
        cards += rng.sample(_DECK, len(_DECK))
    return cards[:kills]


def shots(cards: list[tuple[str, str]], num_rounds: int, seed: int) -> list[Shot]:
    """Aim a run's cards at rounds, in the order in which the run meets them."""
    rng = random.Random(seed)
    order = {phase: number for number, phase in enumerate((ANY, *PHASES))}
    drawn = []
    for victim, phase in cards:
        first, last = _rounds(phase, num_rounds)
        longest = LONGEST_RANDOM_S if phase == ANY else AIMS[phase][1]
        drawn.append(Shot(victim, phase, rng.randint(first, last), rng.uniform(0, longest)))
    return sorted(drawn, key=lambda shot: (shot.not_before_round, order[shot.phase]))


def _rounds(phase: str, num_rounds: int) -> tuple[int, int]:
    """The first and the last round that a phase may be met in."""
    if phase in ("preparation", "commit: global.safetensors"):
        return 0, 0
    if phase in ("final policy", "commit: prune"):
        return num_rounds, num_rounds + (phase == "final policy")
    if phase in (ANY, "evaluation") or phase.startswith("commit: m"):
        return 0, num_rounds
    return 1, num_rounds
