"""The soak's judgement, on rounds as it would see them."""

import pytest

from benchmarks.soak import Round, Soak, judge

MIB = 2**20


def rounds(count=31, rss=lambda number: 300 * MIB, fds=lambda number: 40):
    return [Round(number, rss(number), fds(number), 5, 20) for number in range(count)]


def test_a_level_run_passes():
    assert judge(Soak(rounds())) == []


def test_growth_of_more_than_one_percent_fails():
    assert judge(Soak(rounds(rss=lambda number: 300 * MIB + number * 10_000))) == []
    (fault,) = judge(Soak(rounds(rss=lambda number: 300 * MIB + number * MIB)))
    assert "RSS is 4.76% above" in fault


@pytest.mark.parametrize("what", ["fds", "processes", "threads"])
def test_what_is_left_over_in_each_round_fails(what):
    seen = rounds()
    for item in seen:
        setattr(item, what, 10 + item.number)
    (fault,) = judge(Soak(seen))
    assert fault == f"{what}: 40 in the last ten rounds, 25 in rounds 5 to 15"


def test_a_process_that_outlives_the_run_fails():
    assert judge(Soak(rounds(), ["PID 1: x"])) == ["left over: PID 1: x"]


def test_too_few_rounds_are_no_pass():
    assert judge(Soak(rounds(25))) != []
