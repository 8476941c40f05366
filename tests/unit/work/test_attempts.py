"""What failed before, kept beside a client's work."""

import pytest

from zk0.errors import ClientError
from zk0.executors.process import _outcome
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


def test_an_endless_line_does_not_get_into_messages(store: RunStore) -> None:
    task = store.task("train", 1, "kitchen")
    task.folder.mkdir(parents=True)
    (task.folder / "client.log").write_text("x" * 10_000_000 + "\n")
    with pytest.raises(ClientError) as caught:
        _outcome(task, 1)
    assert len(str(caught.value)) < LONGEST_LINE + 500
    note_failure(task, caught.value)
    assert (task.folder / ATTEMPTS_FILE).stat().st_size < LONGEST_LINE + 1000
