"""The guard's decisions, with an executor that runs out of memory as told; real files."""

import json

import pytest

from benchmarks.service import small_run
from zk0.config import validate_config
from zk0.errors import ClientError, QuarantineError
from zk0.federation.guard import run_guarded
from zk0.memory import client_limits
from zk0.runs.store import RunStore
from zk0.work import attempts
from zk0.work.records import ClientResult


@pytest.fixture
def store(tmp_path):
    config = validate_config(small_run(tmp_path / "outputs", training__batch_size=16))
    return RunStore.create_or_open(config, "guarded")


def result_of(task):
    return ClientResult(
        key=task.key, kind=task.kind, server_round=task.server_round, client=task.client, num_examples=1,
        metrics={"micro_batch_size": task.micro_batch_size, "evaluation": "full"}, duration_s=1.0, peak_rss_bytes=1,
        pid=1,
    )  # fmt: skip


class Executor:
    """Has room for so many frames at once."""

    def __init__(self, room, cause="out_of_memory"):
        self.room, self.cause = room, cause
        self.tried = []

    def run(self, task):
        self.tried.append(task.micro_batch_size)
        if (task.micro_batch_size or 16) > self.room:
            raise ClientError(self.cause, f"soft limit: {task.micro_batch_size} used")
        return result_of(task)


def run(store, executor, client="kitchen", server_round=1, kind="train"):
    return run_guarded(executor.run, store.task(kind, server_round, client), store.config)


def test_half_the_micro_batch_until_it_fits_and_the_same_work(store):
    executor = Executor(room=4)
    result = run(store, executor)
    assert executor.tried == [None, 8, 4]
    assert result.key == store.task("train", 1, "kitchen").key, "the work is the same"
    assert attempts.failed_causes(store.task("train", 1, "kitchen").folder, "train") == ["out_of_memory"] * 2


def test_the_next_rounds_begin_with_what_was_found_and_other_clients_do_not(store):
    run(store, Executor(room=4))
    for server_round, client, expected in ((2, "kitchen", [4]), (2, "workshop", [None])):
        executor = Executor(room=16 if client == "workshop" else 4)
        run(store, executor, client, server_round)
        assert executor.tried == expected


def test_below_one_the_client_is_quarantined_with_the_figures(store):
    executor = Executor(room=0)
    with pytest.raises(QuarantineError, match="'kitchen' is quarantined") as caught:
        run(store, executor)
    assert executor.tried == [None, 8, 4, 2, 1]
    assert caught.value.cause == "out_of_memory"
    assert not caught.value.retriable
    for size in (16, 8, 4, 2, 1):
        assert f"micro-batch {size}: soft limit" in str(caught.value)
    again = Executor(room=16)
    with pytest.raises(QuarantineError):
        run(store, again, server_round=2)
    assert again.tried == [], "it sits out the further rounds"
    client_limits.path_of(store.folder, "kitchen", "train").unlink()
    run(store, again, server_round=3)


def test_other_deaths_are_left_to_the_retries(store):
    executor = Executor(room=0, cause="lost")
    with pytest.raises(ClientError) as caught:
        run(store, executor)
    assert caught.value.cause == "lost"
    assert executor.tried == [None]
    assert client_limits.read(store.folder, "kitchen", "train") is None


def test_a_killed_orchestrator_does_not_forget(store):
    """It dies after the finding was written and before the next attempt."""

    class Killed(Executor):
        def run(self, task):
            if self.tried:
                raise KeyboardInterrupt
            return super().run(task)

    with pytest.raises(KeyboardInterrupt):
        run(store, Killed(room=8))
    executor = Executor(room=8)
    run(store, executor)
    assert executor.tried == [8]


@pytest.mark.parametrize("text", ["", "{", '{"client": "kitchen"}', "\x00\x00", "[]"])
def test_a_damaged_finding_costs_the_knowledge_alone(store, text):
    run(store, Executor(room=4))
    client_limits.path_of(store.folder, "kitchen", "train").write_text(text)
    executor = Executor(room=4)
    run(store, executor, server_round=2)
    assert executor.tried == [None, 8, 4]


def test_evaluation_has_a_finding_of_its_own(store):
    run(store, Executor(room=4))
    executor = Executor(room=16)
    executor.run = lambda task: executor.tried.append(task.micro_batch_size) or result_of(task)
    run(store, executor, kind="evaluate")
    assert executor.tried == [None]


def test_a_micro_batch_in_the_config_is_where_it_begins(tmp_path):
    changes = {"training__batch_size": 16, "training__micro_batch_size": 4}
    store = RunStore.create_or_open(validate_config(small_run(tmp_path / "outputs", **changes)), "guarded")
    executor = Executor(room=2)
    executor.room = 15  # `None` stands for 16 there, and means 4 here
    with pytest.raises(QuarantineError):
        run(store, executor := Executor(room=0))
    assert executor.tried == [None, 2, 1]


def test_an_estimate_never_overrules_experience(store):
    note = client_limits.Note(micro_batch_size=16, server_round=0, figures="estimate", at="now")
    client_limits.expect(store.folder, "workshop", "train", 2, note)
    assert client_limits.read(store.folder, "workshop", "train").micro_batch_size == 2
    run(store, Executor(room=4))
    client_limits.expect(store.folder, "kitchen", "train", 2, note)
    assert client_limits.read(store.folder, "kitchen", "train").micro_batch_size == 4


def test_the_micro_batch_is_no_part_of_the_key(store):
    task = store.task("train", 1, "kitchen")
    assert task.model_copy(update={"micro_batch_size": 2}).key == task.key


def test_the_file_says_what_happened(store):
    run(store, Executor(room=8))
    record = json.loads(client_limits.path_of(store.folder, "kitchen", "train").read_text())
    assert record["micro_batch_size"] == 8
    assert [(note["micro_batch_size"], note["server_round"]) for note in record["notes"]] == [(16, 1)]
