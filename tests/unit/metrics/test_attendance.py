"""Who gave no update in any round, and whether the run may be without them."""

from typing import Any

import pytest

from zk0.metrics.attendance import absences, unexcused

CLIENTS = ["a", "b", "c"]


def line(number: int, *did: str, failed: str = "", kind: str = "train") -> dict[str, Any]:
    """A round in which some gave an update, and others failed at a kind of work."""
    failures = [{"client": name, "kind": kind, "cause": "lost", "message": f"in {number}"} for name in failed]
    return {"server_round": number, "train": {name: {"loss": 1.0} for name in did}, "failures": failures}


BASE = {"server_round": 0, "train": {}, "failures": []}


@pytest.mark.parametrize(
    ("rounds", "absent"),
    [
        ([], {}),
        ([BASE], {}),
        ([BASE, line(1, *CLIENTS)], {}),
        ([BASE, line(1, "a", "b", failed="c"), line(2, *CLIENTS)], {}),
        ([BASE, line(1, "a", "b", failed="c"), line(2, "a", "b", failed="c")], {"c": 2}),
        ([BASE, line(1, *CLIENTS, failed="c")], {"c": 1}),  # its update was refused by the server
        ([BASE, line(1, *CLIENTS, failed="c", kind="evaluate")], {}),
        ([BASE, line(1, "a"), line(2, "b")], {"c": 0}),
        ([BASE, line(1, "a"), line(2, "b", failed="c")], {"c": 1}),
        ([BASE, {"server_round": 1, "train": None, "failures": "?"}], {"a": 0, "b": 0, "c": 0}),
    ],
)
def test_who_gave_nothing(rounds: list[dict[str, Any]], absent: dict[str, int]) -> None:
    found = absences(CLIENTS, rounds)
    assert {item.client: item.sampled for item in found} == absent
    assert [item.client for item in unexcused(found, 0)] == [name for name, sampled in absent.items() if sampled]


def test_the_words() -> None:
    never, once, often = absences(CLIENTS, [line(1, failed="bc"), line(2, failed="c")])
    assert str(never) == "a was never sampled: nothing was learned from it"
    assert str(once) == "b gave no update in the round that it was sampled for: nothing was learned from it"
    assert str(often) == "c gave no update in all 2 rounds that it was sampled for: nothing was learned from it"
    assert (never.why, often.why) == ("", "lost: in 2")


@pytest.mark.parametrize(
    ("may_miss", "names"), [(0, "bc"), (1, "bc"), (2, ""), (["b"], "c"), (["b", "c"], ""), ([], "bc")]
)
def test_who_may_miss(may_miss: int | list[str], names: str) -> None:
    found = absences(CLIENTS, [line(1, "a", failed="bc")])
    assert [item.client for item in unexcused(found, may_miss)] == list(names)
