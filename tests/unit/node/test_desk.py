"""The desk of a node: what is taken in, and what is found on it."""

import json
import time
from pathlib import Path

import pytest

from tests.unit.link.asking import make_request, make_run, make_task
from zk0.link.wire import Answer, Request
from zk0.node.desk import Desk
from zk0.runs.store import RunStore
from zk0.work.records import ArtifactRef, ClientTask


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return make_run(tmp_path)


@pytest.fixture
def task(store: RunStore) -> ClientTask:
    return make_task(store)


@pytest.fixture
def request_(store: RunStore, task: ClientTask) -> Request:
    return make_request(store, task)


def content(store: RunStore, task: ClientTask) -> bytes:
    return store.path(task.incoming).read_bytes()


@pytest.mark.parametrize(
    "path",
    ["../up", "rounds/../../up", "/etc/passwd", "run.json", "rounds//x", "rounds/.hidden", "work/x", "rounds/a b", ""],
)
def test_what_comes_lies_nowhere_but_in_its_run(tmp_path: Path, store, task, request_, path: str) -> None:
    desk = Desk(tmp_path / "node")
    odd = request_.model_copy(update={"files": [task.incoming.model_copy(update={"path": path})]})
    with pytest.raises(ValueError, match="no file of a run"):
        desk.put(odd, [content(store, task)])
    assert list(desk.waiting()) == []


@pytest.mark.parametrize("run_id", ["../up", "", "a/b", "..", "."])
def test_nor_is_a_run_called_so_that_it_lies_elsewhere(tmp_path: Path, store, task, request_, run_id: str) -> None:
    odd = request_.model_copy(update={"task": request_.task.model_copy(update={"run_id": run_id})})
    with pytest.raises(ValueError, match="no name"):
        Desk(tmp_path / "node").put(odd, [content(store, task)])


def test_what_comes_is_what_was_named(tmp_path: Path, store, task, request_) -> None:
    desk = Desk(tmp_path / "node")
    for files in ([], [b"other"], [content(store, task)] * 2):
        with pytest.raises(ValueError, match=r"its files are not|SHA-256"):
            desk.put(request_, files)
    assert list(desk.waiting()) == []


def test_an_answer_is_to_one_asking_and_a_new_one_is_work_again(tmp_path: Path, store, task, request_) -> None:
    desk = Desk(tmp_path / "node")
    desk.put(request_, [content(store, task)])
    failed = Answer(ask=request_.ask, state="failed", message="x")
    desk.tell(request_, failed)
    desk.put(request_, [content(store, task)])  # sent again by another courier
    assert desk.answer(request_.ask) == failed
    assert list(desk.waiting()) == []
    again = request_.model_copy(update={"ask": "b" * 32})
    desk.put(again, [content(store, task)])
    assert list(desk.waiting()) == [again]
    assert desk.answer(again.ask) is None
    assert desk.answer(request_.ask) == failed  # who still waits for the first is told, and disturbs nobody


def test_only_one_worker_is_at_a_desk(tmp_path: Path) -> None:
    with Desk(tmp_path).manned() as first, Desk(tmp_path).manned() as second:
        assert (first, second) == (True, False)
    with Desk(tmp_path).manned() as third:
        assert third


def test_progress_is_numbers_alone(tmp_path: Path, store, task, request_) -> None:
    desk = Desk(tmp_path)
    desk.put(request_, [content(store, task)])
    folder = request_.task.model_copy(update={"run_dir": str(desk.run_dir(request_.task))}).folder
    folder.mkdir(parents=True)
    (folder / "progress.json").write_text('{"kind": "train", "step": 3, "steps": 9, "loss": 0.5, "note": "/home/x"}')
    assert desk.progress(request_) == {"step": 3.0, "steps": 9.0, "loss": 0.5}
    (folder / "progress.json").write_text('{"kind": "train", "step": "/home/x"}')
    assert desk.progress(request_) == {}
    sample = {"at": time.time(), "pid": 7, "phase": "/home/x", "cgroup": "/home/x", "peak_gib": 1.5, "gpus": [[1, 2]]}
    (folder / "memory.jsonl").write_text(json.dumps(sample))
    assert desk.progress(request_) == {"at": sample["at"], "peak_gib": 1.5}
    (folder / "memory.jsonl").write_text(json.dumps(sample | {"at": time.time() - 999}))
    assert desk.progress(request_) == {}


def test_what_leaves_is_read_from_its_run_alone(tmp_path: Path, request_) -> None:
    with pytest.raises(ValueError, match="no file of a run"):
        Desk(tmp_path).place(request_, ArtifactRef(path="rounds/../../key", sha256="", size=0))
