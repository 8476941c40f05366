"""flows.recovery: how long it waits, and what it never tries again."""

from flows.recovery import NEVER_PASSES, pause_before


def test_the_pause_grows_and_is_bounded() -> None:
    assert [pause_before(attempt) for attempt in range(1, 6)] == [0, 10, 30, 90, 270]
    assert pause_before(30) == 900


def test_wrong_input_is_never_tried_again() -> None:
    assert {"BadInputError", "ConfigError", "DatasetError", "PolicyError", "RunNameError"} == set(NEVER_PASSES)
