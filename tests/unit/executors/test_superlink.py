"""The executor of clients on nodes, against a real mailbox; what a courier and a node do is done by the test."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.link.asking import make_request, make_run, make_task
from tests.unit.runs.made import weights
from zk0.errors import ClientError, ConfigError, HopelessError
from zk0.executors import over_link, superlink
from zk0.executors.superlink import SuperlinkExecutor
from zk0.files import atomic
from zk0.layout import COURIER_FOLDER, PROGRESS_FILE
from zk0.link.folder import open_link
from zk0.link.mailbox import Mailbox, Status
from zk0.link.wire import Answer, Request
from zk0.memory.samples import last_words, read_samples
from zk0.preflight.records import Described
from zk0.runs import counted, described
from zk0.runs.records import digest_of, told_files
from zk0.runs.store import RunStore
from zk0.work.executor import STOPPED
from zk0.work.records import ArtifactRef, ClientTask
from zk0.work.results import write_result

SAID = Described(
    recordings="1" * 64,
    frames=9,
    training_frames=7,
    fps=30,
    robot_type=None,
    features={},
    traits=None,
    exchanged_bytes=0,
    base_bytes=0,
    memory=None,
    warnings=[],
    versions={},
    device="cpu",
)
Says = Callable[[Request], tuple[Answer, list[bytes]]]


@pytest.fixture(autouse=True)
def going_on() -> Iterator[None]:
    STOPPED.clear()
    yield
    STOPPED.clear()


class Node:
    """What courier and node do, in a thread: says that it is there, and answers the first request that comes."""

    def __init__(self, store: RunStore, says: Says | None, *, present: bool = True, client: str = "left") -> None:
        self.box = Mailbox(store.folder / COURIER_FOLDER).make()
        self.requests: list[Request] = []
        self._says, self._ended = says, threading.Event()
        self._status = Status(flower_run="1", pid=1, at=0, present=[client] if present else [])
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> "Node":
        self.box.say(self._status.model_copy(update={"at": time.time()}))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._ended.wait(0.02):
            self.box.say(self._status.model_copy(update={"at": time.time()}))
            for request in self.box.open_requests():
                if request.ask not in [known.ask for known in self.requests]:
                    self.requests.append(request)
                    if self._says is not None:
                        self.box.tell(request, *self._says(request))


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    link = tmp_path / "link"
    atomic.write_json(link / "link.json", {"control": "127.0.0.1:9", "tls": False})
    entry = {"node_id": 7, "fingerprint": "SHA256:x", "registered": "2026-01-01T00:00:00Z"}
    atomic.write_json(link / "clients.json", {"left": entry})
    made = make_run(tmp_path, executor={"away_s": 0.6})
    described.keep(made.folder, {"left": SAID.model_dump(mode="json")})
    return made


@pytest.fixture
def task(store: RunStore) -> ClientTask:
    return make_task(store)


def did(tmp_path: Path, task: ClientTask, **changes: object) -> Says:
    """What a node says that did the work, in a folder of its own."""
    there = task.model_copy(update={"run_dir": str(tmp_path / "node")})
    result = write_result(
        there, tensors=weights(3), num_examples=5, metrics={"loss": 0.5}, duration_s=1.0, peak_rss_bytes=1
    )
    content = (tmp_path / "node" / result.tensors.path).read_bytes()
    text = (there.folder / "train.json").read_text()
    answer = {"state": "done", "result": text, "files": [result.tensors], **changes}
    return lambda request: (Answer.model_validate({"ask": request.ask, **answer}), [content])


def fails(executor: SuperlinkExecutor, task: ClientTask) -> threading.Thread:
    """A thread that waits for a result, and gets none."""

    def run() -> None:
        with pytest.raises(ClientError):
            executor.run(task)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def failed(**words: object) -> Says:
    return lambda request: (Answer.model_validate({"ask": request.ask, "state": "failed", **words}), [])


def test_what_a_node_did_is_as_if_a_worker_had_left_it(tmp_path: Path, store: RunStore, task: ClientTask) -> None:
    executor = SuperlinkExecutor(store.config)
    with Node(store, did(tmp_path, task)) as node:
        result = executor.run(task)
        assert result.key == task.key
        assert store.path(result.tensors).read_bytes() == (tmp_path / "node" / result.tensors.path).read_bytes()
        assert executor.run(task) == result  # found, and not asked for again
    (request,) = node.requests
    assert request.files == [task.incoming]
    assert str(tmp_path) not in request.model_dump_json()
    assert {path.name for path in node.box.folder.iterdir()} == {"status.json"}


@pytest.mark.parametrize(
    ("answer", "cause", "kind"),
    [
        ({"cause": "out_of_memory", "message": "m"}, "out_of_memory", ClientError),
        ({"cause": "bad_data", "message": "train of 'left': m", "repeats": True}, "bad_data", HopelessError),
        ({"cause": "refused", "message": "m", "repeats": True}, "refused", HopelessError),
        ({"cause": "lost", "message": "m"}, "lost", ClientError),
    ],
)
def test_a_failure_on_a_node_is_typed(store: RunStore, task: ClientTask, answer, cause, kind) -> None:
    with Node(store, failed(**answer)) as node, pytest.raises(ClientError) as caught:
        SuperlinkExecutor(store.config).run(task)
    assert (caught.value.cause, type(caught.value)) == (cause, kind)
    assert str(caught.value) == "train of 'left', on its node: m"
    assert list(node.box.open_requests()) == []  # the next attempt is another asking


def test_the_next_attempt_is_asked_anew(tmp_path: Path, store: RunStore, task: ClientTask) -> None:
    executor = SuperlinkExecutor(store.config)
    with Node(store, failed(cause="out_of_memory")) as first, pytest.raises(ClientError):
        executor.run(task)
    smaller = task.model_copy(update={"micro_batch_size": 1})
    with Node(store, did(tmp_path, task)) as second:
        executor.run(smaller)
    assert second.requests[0].ask != first.requests[0].ask
    assert second.requests[0].task.micro_batch_size == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"result": "{}"},
        {"result": ""},
        {"files": []},
        {"files": [ArtifactRef(path="run.json", sha256="0" * 64, size=9)]},
        {"files": [ArtifactRef(path="rounds/0001/clients/right/update.safetensors", sha256="0" * 64, size=9)]},
    ],
)
def test_what_is_no_result_of_this_work_comes_through_no_door(tmp_path, store, task, changes) -> None:
    before = (store.folder / "run.json").read_bytes()
    with Node(store, did(tmp_path, task, **changes)), pytest.raises(ClientError, match="no result of this work"):
        SuperlinkExecutor(store.config).run(task)
    assert (store.folder / "run.json").read_bytes() == before
    assert not (store.folder / "rounds/0001/clients/right").exists()


def test_a_node_that_is_away_costs_its_client_the_round_and_no_further_attempt(store, task) -> None:
    with Node(store, None, present=False) as node, pytest.raises(HopelessError, match=r"away for 0\.6 s") as caught:
        SuperlinkExecutor(store.config).run(task)
    assert (caught.value.cause, caught.value.retriable) == ("lost", False)
    assert len(list(node.box.endings())) == 1  # what it is still at ends when it is back
    began = time.monotonic()
    with Node(store, None, present=False), pytest.raises(HopelessError, match="away"):
        SuperlinkExecutor(store.config).run(task)
    assert time.monotonic() - began < 0.5  # it is away still: the next work does not wait for it again
    with Node(store, failed(cause="lost")), pytest.raises(ClientError, match="on its node"):
        SuperlinkExecutor(store.config).run(task)  # but it is heard when it is back


def test_who_was_away_when_nobody_looked_was_not_away(store, task, monkeypatch) -> None:
    box = Mailbox(store.folder / COURIER_FOLDER)
    way = over_link.line(open_link(store.config.executor.link), box)
    box.say(Status(flower_run="1", pid=1, at=time.time(), present=["left"]))
    assert way._away_for("left") < 0.1
    box.say(Status(flower_run="1", pid=1, at=time.time(), present=[]))
    monkeypatch.setattr(over_link, "UNSEEN_S", 0.2)
    time.sleep(0.4)
    assert way._away_for("left") < 0.1
    time.sleep(0.1)
    assert way._away_for("left") >= 0.1


def test_who_was_away_at_the_start_is_asked_first_what_its_recordings_are_like(
    tmp_path, store, task, monkeypatch
) -> None:
    compared = []
    monkeypatch.setattr(superlink, "compare", lambda config, said: compared.append(sorted(said)))  # needs torch
    task = store.task("train", 1, "right").model_copy(update={"incoming": task.incoming})
    answered = did(tmp_path, task)

    def says(request: Request) -> tuple[Answer, list[bytes]]:
        if request.what == "work":
            return answered(request)
        return Answer(ask=request.ask, state="done", described=SAID.model_dump(mode="json")), []

    with Node(store, says, client="right") as node:
        SuperlinkExecutor(store.config).run(task)
    assert [(request.what, request.run) for request in node.requests] == [("describe", "run"), ("work", "run")]
    assert node.requests[1].recordings == digest_of(told_files(SAID.recordings))
    assert compared == [["left", "right"]]
    assert described.is_known(store.folder, "right")
    assert counted.read(store.folder) == {"right": SAID.training_frames}


@pytest.mark.parametrize(("cause", "kept"), [("bad_data", "bad_data"), ("refused", "refused"), ("lost", "lost")])
def test_who_joins_with_what_cannot_be_used_sits_out(store, task, cause, kept) -> None:
    task = store.task("train", 1, "right").model_copy(update={"incoming": task.incoming})
    with Node(store, failed(cause=cause, message="m"), client="right"), pytest.raises(ClientError) as caught:
        SuperlinkExecutor(store.config).run(task)
    assert caught.value.cause == kept
    assert not described.is_known(store.folder, "right")


def test_who_goes_on_with_a_run_adopts_what_one_that_was_killed_had_asked_for(tmp_path, store, task) -> None:
    asked = make_request(store, task)
    Mailbox(store.folder / COURIER_FOLDER).make().ask(asked)
    with Node(store, did(tmp_path, task)) as node:
        SuperlinkExecutor(store.config).run(task)
    assert [request.ask for request in node.requests] == [asked.ask]


def test_what_a_person_ends_is_ended_on_its_node_and_asked_for_anew(tmp_path, store, task) -> None:
    executor = SuperlinkExecutor(store.config)
    with Node(store, None) as node:
        waiting = fails(executor, task)
        while not node.requests:
            time.sleep(0.02)
        executor.stop(str(store.folder))
        waiting.join()
        assert node.box.stopped
        assert [ending.ask for ending in node.box.endings()] == [node.requests[0].ask]
        assert list(node.box.open_requests()) == []
    STOPPED.clear()
    with Node(store, did(tmp_path, task)) as second:
        SuperlinkExecutor(store.config).run(task)
    assert [request.ask for request in second.requests] != [node.requests[0].ask]


def test_where_no_courier_was_ever_at_work_a_stop_asks_the_link_for_none(store, task) -> None:
    box = Mailbox(store.folder / COURIER_FOLDER).make()
    box.ask(make_request(store, task))
    began = time.monotonic()
    SuperlinkExecutor(store.config).stop(str(store.folder))
    assert time.monotonic() - began < 1  # else Flower's command would be started
    assert box.stopped


def test_how_far_it_is_can_be_seen(store: RunStore, task: ClientTask) -> None:
    says: Says = lambda request: (  # noqa: E731 - with its type
        Answer(
            ask=request.ask, state="working", progress={"step": 3, "steps": 9, "loss": 0.5, "peak_gib": 1.5, "at": 9.0}
        ),
        [],
    )
    with Node(store, says):
        waiting = fails(SuperlinkExecutor(store.config), task)
        path = task.folder / PROGRESS_FILE
        while not path.exists():
            assert waiting.is_alive()
            time.sleep(0.02)
        assert json.loads(path.read_text())["step"] == 3
        while not (samples := read_samples(task.folder)):
            time.sleep(0.02)
        assert samples[-1]["peak_gib"] == 1.5
        assert last_words(task.folder).startswith("used 1.5 GiB")
        STOPPED.set()
        waiting.join()


def test_a_courier_that_is_gone_is_submitted_again(tmp_path, store, task, monkeypatch) -> None:
    """Against a SuperLink that is away: it is tried, said, and costs no more than the node being away."""
    monkeypatch.setattr(over_link, "PAUSE_S", 0.1)
    with pytest.raises(HopelessError, match="away"):
        SuperlinkExecutor(store.config).run(task)


def test_without_a_link_it_is_said_what_is_lacking(tmp_path: Path, store: RunStore, task: ClientTask) -> None:
    for link in (None, str(tmp_path / "elsewhere")):
        executor = store.config.executor.model_copy(update={"link": link})
        with pytest.raises(ConfigError, match=r"executor\.link"):
            SuperlinkExecutor(store.config.model_copy(update={"executor": executor})).run(task)
