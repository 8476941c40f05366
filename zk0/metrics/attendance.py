"""Which clients a run learned nothing from, by its rounds' figures."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from zk0.metrics.values import Json, mapping, mappings

FIT = "train"
"""The kind of work that gives an update."""


@dataclass(frozen=True)
class Absence:
    """A client that gave no update in any round."""

    client: str
    """Its name."""
    sampled: int
    """Rounds in which it should have given one; 0 where chance never sampled it (federation.fraction_train)."""
    why: str
    """Cause and message of its last failure; empty where it never failed."""

    def __str__(self) -> str:
        """In words, as tables and errors have it."""
        if not self.sampled:
            return f"{self.client} was never sampled: nothing was learned from it"
        rounds = "the round" if self.sampled == 1 else f"all {self.sampled} rounds"
        return f"{self.client} gave no update in {rounds} that it was sampled for: nothing was learned from it"


def absences(clients: Iterable[str], rounds: Sequence[Json]) -> list[Absence]:
    """The clients without an update in any of the rounds, in their order; none before a round of training.

    Args:
        clients: the names of all.
        rounds: lines of metrics.jsonl.
    """
    lines = [line for line in rounds if line.get("server_round")]
    fits = [(set(mapping(line.get(FIT))), _failed(line)) for line in lines]
    found = []
    for client in clients if lines else ():
        lost = [failed[client] for _, failed in fits if client in failed]
        if not any(client in done and client not in failed for done, failed in fits):
            found.append(Absence(client, len(lost), lost[-1] if lost else ""))
    return found


def unexcused(found: Iterable[Absence], may_miss: int | Sequence[str]) -> list[Absence]:
    """Those who were sampled, failed every time, and whom `federation.may_miss` does not name, or not so many."""
    failed = [absence for absence in found if absence.sampled]
    if isinstance(may_miss, int):
        return failed if len(failed) > may_miss else []
    return [absence for absence in failed if absence.client not in may_miss]


def _failed(line: Json) -> dict[str, str]:
    """Client -> cause and message, of the fits of a round that gave nothing that could be used."""
    items = mappings(line.get("failures"))
    return {
        str(item.get("client")): f"{item.get('cause')}: {item.get('message')}"
        for item in items
        if item.get("kind") == FIT
    }
