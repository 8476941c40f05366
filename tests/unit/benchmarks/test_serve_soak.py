"""The judgement of the service's soak, on nights as it would see them."""

import pytest

from benchmarks.serve_soak import TABLES, Look, judge

MIB = 2**20


def nights(count: int = 24, **grows: int) -> list[Look]:
    level = {"database": 40 * MIB, "server_rss": 300 * MIB, "worker_rss": 200 * MIB, "serve_rss": 150 * MIB}
    level |= {"server_log": 0, "worker_log": 0, "finished": 0} | dict.fromkeys(TABLES, 100)
    grows = {"finished": 1, "worker_log": 400} | grows
    return [
        Look(night=night, **{name: value + night * grows.get(name, 0) for name, value in level.items()})
        for night in range(count)
    ]


def test_level_nights_pass() -> None:
    assert judge(nights(), history=8) == []


@pytest.mark.parametrize(
    ("name", "each"),
    [("database", 2 * MIB), ("server_rss", 3 * MIB), ("events", 5), ("artifacts", 4), ("server_log", 80 * 1024)],
)
def test_what_grows_from_night_to_night_fails(name: str, each: int) -> None:
    (fault,) = judge(nights(**{name: each}), history=8)
    assert name in fault or "logs" in fault


def test_nights_without_runs_or_too_few_of_them_are_no_pass() -> None:
    assert judge(nights(finished=0), history=8) == ["no run was finished in the second half"]
    assert judge(nights(12), history=8) != []
