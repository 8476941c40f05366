"""What stands against Flower's SecAgg+, as docs/threats.md says it, of Flower as it is pinned."""

import pytest

from benchmarks.secure_aggregation import STAGES, measure


@pytest.fixture(scope="module")
def found() -> dict[str, object]:
    return measure(0.1)


def test_the_average_is_right_but_for_the_rounding(found: dict[str, object]) -> None:
    assert 0.005 < float(str(found["error, of the change"])) < 0.05
    assert found["same bytes when done again"] is False
    assert found["same bytes when done again, rounding seeded"] is True


def test_nobody_can_look_at_an_update(found: dict[str, object]) -> None:
    assert found["results that the server can tell apart"] == 1
    assert float(str(found["hostile client moves the average by, of the base's norm"])) > 50


def test_who_goes_away_early_costs_everybody_the_round(found: dict[str, object]) -> None:
    assert [found[f"1 of four gone in {stage}"] == "round lost" for stage in STAGES] == [True, True, False, False]
    assert "average of left" in str(found["1 of four gone in collect_masked_vectors"])


def test_a_question_cannot_be_asked_again(found: dict[str, object]) -> None:
    assert str(found["one asked twice in setup"]).startswith("nothing")
    assert all("Error" in str(found[f"one asked twice in {stage}"]) for stage in STAGES[1:])
    assert str(found["server killed before unmask and begun again"]).startswith("8 fits of four")
