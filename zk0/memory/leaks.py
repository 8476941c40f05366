"""Growth over the rounds: who uses more memory in every round, told by a slope that single odd rounds do not move."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import Any

from loguru import logger

from zk0.memory.usage import gib
from zk0.metrics.values import mapping, number

ROUNDS = 10
"""Rounds that are looked at; with fewer nothing is said."""
SHARE = 0.05
"""Growth over these rounds, as a share of the level, below which it is no news."""
STEADY = 0.7
"""Least surplus of rising pairs of rounds over falling ones (Kendall's tau); ten rounds without a trend reach it in one
case of 900."""
ORCHESTRATOR = "the orchestrator"


@dataclass(frozen=True)
class Growth:
    """Somebody's memory grows."""

    who: str
    """The orchestrator, or a client by name."""
    per_round: float
    """Bytes a round: the median slope of all pairs of rounds (Theil and Sen)."""
    level: int
    """Bytes now."""
    limit: int | None
    """What there is, in bytes; None where it is not known."""

    @property
    def rounds_left(self) -> int | None:
        """Rounds until the limit is reached at this pace."""
        return None if self.limit is None else max(0, int((self.limit - self.level) / self.per_round))

    def __str__(self) -> str:
        end = "" if self.rounds_left is None else f"; at this pace {gib(self.limit or 0)} are full in "
        end += "" if self.rounds_left is None else f"{self.rounds_left} rounds"
        return (
            f"{self.who} grows by {self.per_round / 2**20:.1f} MiB a round over the last {ROUNDS} rounds, to "
            f"{gib(self.level)}{end}"
        )


def find(who: str, series: Sequence[int], limit: int | None = None) -> Growth | None:
    """Growth of one series of sizes, a round each, oldest first; None where it has none, or is too short to tell."""
    recent = list(series[-ROUNDS:])
    if len(recent) < ROUNDS:
        return None
    pairs = [
        (later - earlier, second - first) for (first, earlier), (second, later) in combinations(enumerate(recent), 2)
    ]
    slope = median(rise / rounds for rise, rounds in pairs)
    rising = sum((rise > 0) - (rise < 0) for rise, _ in pairs) / len(pairs)
    if rising < STEADY or slope * (ROUNDS - 1) < SHARE * median(recent):
        return None
    return Growth(who, slope, recent[-1], limit)


def find_all(rounds: Sequence[Mapping[str, Any]]) -> list[Growth]:
    """Everybody who grows over the newest rounds.

    The orchestrator is watched for as long as it is one process; a client, whose processes end with each fit, by the
    peaks of its fits. Each is set against what it can have itself: a client in a container, its limit.

    Args:
        rounds: the lines of metrics.jsonl, by server_round.
    """
    newest = mapping(rounds[-1].get("orchestrator")) if rounds else {}
    own = [figures for line in rounds if (figures := mapping(line.get("orchestrator"))).get("pid") == newest.get("pid")]
    found = [find(ORCHESTRATOR, _sizes(own, "rss_bytes"), _newest(own, "capacity_bytes"))]
    clients = [mapping(line.get("train")) for line in rounds]
    for name in sorted({name for line in clients for name in line}):
        fits = [mapping(line.get(name)) for line in clients]
        sizes, capacity = _sizes(fits, "peak_ram_bytes"), _newest(fits, "ram_capacity_bytes")
        found.append(find(f"client {name!r}", sizes, capacity))
    return [growth for growth in found if growth is not None]


def warn(rounds: Sequence[Mapping[str, Any]]) -> None:
    """Name in the log, once, who has begun to grow: those who already grew a round ago are known."""
    known = {growth.who for growth in find_all(rounds[:-1])}
    for growth in find_all(rounds):
        if growth.who not in known:
            logger.warning("memory: {}", growth)


def _sizes(figures: Iterable[Mapping[str, Any]], key: str) -> list[int]:
    return [int(size) for item in figures if (size := number(item.get(key))) is not None]


def _newest(figures: Sequence[Mapping[str, Any]], key: str) -> int | None:
    return next(iter(reversed(_sizes(figures, key))), None)
