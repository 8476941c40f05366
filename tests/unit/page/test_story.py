"""What befell a run, told from its files."""

import pytest

from tests.unit.runs.made import commit, fit
from zk0.memory.sampler import ENDED
from zk0.page.story import lives, read_story, time_of
from zk0.runs.store import RunStore


def sample(at: float, phase: str, pid: int = 1, started: float = 0.0) -> dict[str, object]:
    return {"at": at, "phase": phase, "pid": pid, "started": started}


def test_a_process_that_was_killed_is_told_from_one_that_ended() -> None:
    found = lives(
        [
            sample(0, "start"),
            sample(2, "start"),
            sample(5, "fit"),
            sample(9, "fit", pid=2),
            sample(11, "commit", pid=2),
            sample(12, ENDED, pid=2),
            sample(20, "start", pid=2),  # a notebook's process goes on with the run
            sample(30, "start", pid=2, started=25.0),  # another one with the same number
        ]
    )
    assert [(life.pid, life.clean, life.began, life.ended) for life in found] == [
        (1, False, 0, 5),
        (2, True, 9, 12),
        (2, False, 20, 20),
        (2, False, 30, 30),
    ]
    assert [(phase.name, phase.began, phase.ended) for phase in found[0].phases] == [("start", 0, 2), ("fit", 2, 5)]


def test_of_a_client_without_samples_its_results_tell(store: RunStore) -> None:
    """As of one at work on its owner's node, whose memory is not told."""
    commit(store, 0)
    result = fit(store, 1, "kitchen", store.resume_point())
    commit(store, 1, [result])
    (phase,) = read_story(store, store.read_metrics(), running=False).lives["kitchen"][0].phases
    assert phase.name == "train"
    assert phase.ended - phase.began == pytest.approx(result.duration_s)
    written = (store.folder / "rounds/0001/clients/kitchen/train.json").stat().st_mtime
    assert phase.ended == written


def test_there_is_no_life_without_a_sample() -> None:
    assert lives([]) == []
    assert lives([sample(1, ENDED)]) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [("1970-01-01T00:01:00+00:00", 60.0), ("1970-01-01T00:01:00", 60.0), ("soon", None), (None, None)],
)
def test_a_time_that_is_none_counts_as_not_there(text: object, found: float | None) -> None:
    assert time_of(text) == found
