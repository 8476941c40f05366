"""The steps as plain calls: what is tried again, how many are at work at once, and in which order they come back."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.unit.runs.test_origin import config_of
from zk0.aggregation.server_round import RoundPlan
from zk0.errors import ClientError, FailureCause, HopelessError, StorageError
from zk0.federation import steps
from zk0.federation.round import fit_work
from zk0.federation.steps import Steps, retried
from zk0.runs.records import RoundState
from zk0.runs.store import RunStore
from zk0.work.attempts import failed_causes
from zk0.work.records import ArtifactRef, ClientResult, ClientTask
from zk0.work.results import write_result


class Scripted:
    """An executor whose clients fail as told, then do their work, which is to write an empty result."""

    def __init__(self, fails: dict[str, list[FailureCause]], pause_s: float = 0) -> None:
        self.fails = fails
        self.pause_s = pause_s
        self.at_work = 0
        self.most = 0
        self._lock = threading.Lock()

    def run(self, task: ClientTask) -> ClientResult:
        with self._lock:
            self.at_work += 1
            self.most = max(self.most, self.at_work)
        time.sleep(self.pause_s)
        with self._lock:
            self.at_work -= 1
        if causes := self.fails.get(task.client):
            raise ClientError(causes.pop(0), "as told")
        if task.client == "no-disk":
            raise StorageError("no space left")
        return write_result(task, tensors=None, num_examples=1, metrics={}, duration_s=1.0, peak_rss_bytes=1)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    config = config_of(tmp_path, executor__max_retries=2, executor__retry_delay_s=0.01, executor__max_parallel=2)
    return RunStore.create_or_open(config, "stepped")


def scripted(monkeypatch: pytest.MonkeyPatch, **fails: Any) -> Scripted:
    executor = Scripted(fails)
    monkeypatch.setattr(steps, "make_executor", lambda work, config: executor)
    return executor


def work(store: RunStore, *clients: str) -> list[ClientTask]:
    before = RoundState(server_round=0, arrays=ArtifactRef(path="x", sha256="x", size=1))
    return fit_work(store, 1, RoundPlan(list(clients), 0.0), before)


def test_what_may_pass_is_tried_again(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, kitchen=["lost", "timeout"])
    task = work(store, "kitchen")[0]
    assert retried(task, store.config).client == "kitchen"
    assert failed_causes(task.folder, "train") == ["lost", "timeout"]


@pytest.mark.parametrize(("causes", "tries"), [(["bad_data"], 1), (["lost"] * 5, 3)])
def test_attempts_are_bounded(
    store: RunStore, monkeypatch: pytest.MonkeyPatch, causes: list[FailureCause], tries: int
) -> None:
    scripted(monkeypatch, kitchen=causes)
    task = work(store, "kitchen")[0]
    with pytest.raises(ClientError, match="as told"):
        retried(task, store.config)
    assert len(failed_causes(task.folder, "train")) == tries


def test_an_error_in_the_same_words_is_not_tried_a_third_time(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, kitchen=["error"] * 5)
    task = work(store, "kitchen")[0]
    with pytest.raises(HopelessError, match="as the attempt before"):
        retried(task, store.config)
    assert len(failed_causes(task.folder, "train")) == 2


def test_who_ends_a_run_waits_for_no_pause_before_an_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of up to a day, in which the run would keep its turn."""
    store = RunStore.create_or_open(config_of(tmp_path, executor__retry_delay_s=3600), "ended")
    scripted(monkeypatch, kitchen=["lost"] * 5)
    task = work(store, "kitchen")[0]
    monkeypatch.setattr(steps, "STOPPED", stopped := threading.Event())
    threading.Timer(0.2, stopped.set).start()
    with pytest.raises(ClientError, match="as told"):
        retried(task, store.config)
    assert failed_causes(task.folder, "train") == ["lost"]


def test_who_ends_a_run_is_heard_although_its_work_cannot_be_ended(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise ClientError("lost", "the Docker engine does not answer")

    def interrupted(*_: object) -> list[object]:
        raise KeyboardInterrupt

    monkeypatch.setattr(steps, "stop_work", away)
    run = Steps(store)
    monkeypatch.setattr(run, "do", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.each("fit", work(store, "kitchen"))


def test_results_and_failures_come_in_the_order_of_the_work(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = scripted(monkeypatch, b=["bad_data"], d=["bad_data"])
    executor.pause_s = 0.05
    found = Steps(store).each("fit", work(store, "a", "b", "c", "d", "e"))
    assert [result.client for result in found.results] == ["a", "c", "e"]
    assert [(failure.client, failure.cause) for failure in found.failures] == [("b", "bad_data"), ("d", "bad_data")]
    assert executor.most == 2, "executor.max_parallel"


def test_where_all_are_needed_one_failure_is_everybodys(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, b=["bad_data"])
    with pytest.raises(ClientError, match="as told"):
        Steps(store).each("prepare", work(store, "a", "b"), all_needed=True)
    scripted(monkeypatch, b=["bad_data"])
    found = Steps(store).each("prepare", work(store, "a", "b"), all_needed=True, but="bad_data")
    assert [result.client for result in found.results] == ["a"]
    assert [failure.client for failure in found.failures] == ["b"]


def test_what_is_no_clients_fault_ends_the_run(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch)
    with pytest.raises(StorageError, match="no space left"):
        Steps(store).each("fit", work(store, "a", "no-disk"))
