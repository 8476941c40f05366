"""What failed before, kept beside a client's work."""

import pytest

from zk0.errors import ClientError, FailureCause
from zk0.executors.death import outcome
from zk0.layout import ATTEMPTS_FILE
from zk0.runs.store import RunStore
from zk0.work.attempts import failed_causes, note_failure
from zk0.work.log import LONGEST_LINE


def test_failed_attempts_are_remembered_by_kind(store: RunStore) -> None:
    task = store.task("train", 1, "kitchen")
    note_failure(task, ClientError("timeout", "took too long"))
    note_failure(task, ClientError("lost", "killed"))
    note_failure(store.task("evaluate", 1, "kitchen"), ClientError("error", "odd"))
    with (task.folder / "attempts.jsonl").open("a") as file:
        file.write('{"torn')
    assert failed_causes(task.folder, "train") == ["timeout", "lost"]


@pytest.mark.parametrize(
    ("cause", "first", "second", "hopeless"),
    [
        ("error", "OSError: [Errno 5] x at 0x7f2a", "OSError: [Errno 5] x at 0x7fff", True),
        ("error", "OSError: [Errno 5] x", "OSError: [Errno 110] y", False),
        ("lost", "the worker was killed by SIGKILL", "the worker was killed by SIGKILL", False),
        ("timeout", "took longer", "took longer", False),
    ],
)
def test_an_error_that_repeats_in_the_same_words_is_not_tried_a_third_time(
    store: RunStore, cause: FailureCause, first: str, second: str, hopeless: bool
) -> None:
    task = store.task("train", 1, "kitchen")
    before = ClientError(cause, first)
    assert note_failure(task, before) is before
    note_failure(store.task("evaluate", 1, "kitchen"), ClientError("error", "of other work"))
    after = note_failure(task, ClientError(cause, second))
    assert after.retriable is not hopeless
    assert second in str(after)


def test_an_endless_line_does_not_get_into_messages(store: RunStore) -> None:
    task = store.task("train", 1, "kitchen")
    task.folder.mkdir(parents=True)
    (task.folder / "client.log").write_text("x" * 10_000_000 + "\n")
    with pytest.raises(ClientError) as caught:
        outcome(task, 1)
    assert len(str(caught.value)) < LONGEST_LINE + 500
    note_failure(task, caught.value)
    assert (task.folder / ATTEMPTS_FILE).stat().st_size < LONGEST_LINE + 1000
