"""The courier between a real mailbox and the desks of nodes; only Flower's way between them is replaced."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from flwr.app import Error, Message
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from tests.unit.link.asking import make_request, make_run, make_task
from zk0.files import atomic
from zk0.layout import COURIER_FOLDER
from zk0.link import courier
from zk0.link.courier import Courier
from zk0.link.mailbox import Mailbox
from zk0.link.parcel import files_of, text_of
from zk0.link.wire import Answer, Request
from zk0.node import ledger
from zk0.node.app import reply
from zk0.node.desk import Desk
from zk0.work.records import ArtifactRef

NODE = 7


@pytest.fixture(autouse=True)
def identity() -> Iterator[None]:
    names = ("_run_id", "_node_id", "_task_id")
    before = [getattr(TaskIdentity, name) for name in names]
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    yield
    for name, value in zip(names, before, strict=True):
        setattr(TaskIdentity, name, value)


class Way(Grid):
    """Brings messages to a desk at once, or loses them."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.nodes = [NODE]
        self.lost = False
        self.sent: list[str] = []
        self._replies: dict[str, Message] = {}

    def get_node_ids(self) -> Iterable[int]:
        return self.nodes

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        for message in messages:
            number = str(len(self.sent))
            message.metadata.__dict__["_message_id"] = number
            text = text_of(message.content)
            self.sent.append(next(name for name in ("request", "ask", "end") if name in text))
            self._replies[number] = self._answer(message, text)
            yield number

    def _answer(self, message: Message, text: dict[str, str]) -> Message:
        if self.lost:
            return Message(Error(code=8, reason="/home/owner/secret"), reply_to=message)
        if "request" in text:
            request = Request.model_validate_json(text["request"])
            self.desk.put(request, files_of(message.content))
            text = {"ask": request.ask}
        if "end" in text:
            self.desk.end(text["end"])
            text = {"ask": text["end"]}
        return Message(reply(self.desk, text["ask"], wait_s=0), reply_to=message)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(number) for number in message_ids if number in self._replies]

    def _fail(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise AssertionError("the courier needs no more of a grid")

    set_run = create_message = send_and_receive = _fail
    run = property(_fail)


class Office:
    """A run with one request in its mailbox, a node's desk, and couriers between them."""

    def __init__(self, folder: Path) -> None:
        self.store = make_run(folder)
        self.task = make_task(self.store)
        self.request = make_request(self.store, self.task)
        self.box = Mailbox(self.store.folder / COURIER_FOLDER).make()
        self.box.ask(self.request)
        self.desk = Desk(folder / "node")
        atomic.write_bytes(folder / "node/node.toml", b'link = "link:8124"\nclient = "left"\nroot = "/data"\n')
        self.way = Way(self.desk)
        self.link = folder / "link"
        entry = {"node_id": NODE, "fingerprint": "SHA256:x", "registered": "2026-01-01T00:00:00Z"}
        atomic.write_json(self.link / "clients.json", {self.task.client: entry})
        self.courier = self.another()

    def another(self) -> Courier:
        return Courier(self.way, self.box, self.link, "1")

    def carry(self, times: int = 1) -> None:
        for _ in range(times):
            self.courier.look()
            self.courier.step()

    def carry_stopped(self, times: int) -> None:
        for _ in range(times):
            self.courier.look(quiet=True)
            self.courier.step(stopped=True)

    def work_is_done(self) -> bytes:
        """What the worker does, for this test."""
        content = b"an update"
        path = self.desk.run_dir(self.task) / "rounds/0001/clients/left/update.safetensors"
        digest = atomic.write_bytes(path, content)
        ref = ArtifactRef(path="rounds/0001/clients/left/update.safetensors", sha256=digest.sha256, size=digest.size)
        self.desk.tell(self.request, Answer(ask=self.request.ask, state="done", result="{}", files=[ref]))
        return content


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


def test_a_request_reaches_the_desk_with_its_files_and_the_answer_the_mailbox(office: Office) -> None:
    office.carry()
    (waiting,) = office.desk.waiting()
    assert waiting == office.request
    sent = office.desk.run_dir(office.task) / office.task.incoming.path
    assert hashlib.sha256(sent.read_bytes()).hexdigest() == office.task.incoming.sha256
    assert office.box.answer(office.request) is None
    content = office.work_is_done()
    office.carry(2)
    assert office.box.answer(office.request).state == "done"
    assert [path.read_bytes() for path in office.box.files(office.request)] == [content]
    assert office.way.sent == ["request", "ask"]  # the tensors went once
    office.carry(2)
    assert len(office.way.sent) == 2  # what has its answer is not asked for again


def test_another_courier_goes_on_where_one_was_killed(office: Office) -> None:
    office.carry()
    office.work_is_done()
    office.courier = office.another()
    office.carry(2)
    assert office.box.answer(office.request).state == "done"


def test_a_node_that_has_lost_its_desk_gets_the_request_again(office: Office) -> None:
    office.carry()
    for path in office.desk.folder.rglob("request.json"):
        path.unlink()
    office.carry(2)
    assert office.way.sent == ["request", "ask", "request"]


def test_who_is_away_is_not_asked_and_who_joins_late_is(office: Office) -> None:
    office.way.nodes = []
    office.carry(3)
    assert (office.way.sent, office.box.status().present) == ([], [])
    office.way.nodes = [NODE]
    office.carry()
    assert (office.way.sent, office.box.status().present) == (["request"], ["left"])


def test_a_node_that_is_no_clients_is_not_asked(office: Office) -> None:
    office.way.nodes = [NODE + 1]
    office.carry(3)
    assert office.way.sent == []


def test_messages_that_are_lost_cost_nothing_until_too_many_are(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier, "PAUSE_S", 0.0)
    office.way.lost = True
    office.carry(courier.MOST_ERRORS - 1)
    office.way.lost = False
    office.carry()
    assert len(list(office.desk.waiting())) == 1
    office.way.lost = True
    office.carry(courier.MOST_ERRORS)
    said = office.box.answer(office.request)
    assert (said.state, said.cause) == ("failed", "lost")
    assert "secret" not in said.message


def test_a_result_of_other_work_is_turned_away_by_its_clients_name(office: Office) -> None:
    office.carry()
    other = json.dumps({"key": "0" * 64})
    office.desk.tell(office.request, Answer(ask=office.request.ask, state="done", result=other))
    office.carry(2)
    assert "a result of other work" in office.box.answer(office.request).message
    assert (
        "courier: client 'left': its node's answer is none: it is a result of other work"
        in (office.link / "link.log").read_text()
    )


def test_what_a_node_refuses_is_in_the_links_log(office: Office) -> None:
    office.carry()
    office.desk.tell(office.request, Answer(ask=office.request.ask, state="failed", cause="refused", message="no"))
    office.carry(2)
    assert "courier: client 'left', on its node: no" in (office.link / "link.log").read_text()


def test_everything_that_leaves_is_in_the_ledger_whatever_it_says(office: Office) -> None:
    office.carry(2)
    office.desk.end("f" * 32)
    reply(office.desk, "f" * 32, wait_s=0)
    reply(office.desk, "e" * 32, wait_s=0)
    said = [(line["what"], line["run"]) for line in ledger.lines(office.desk.home)]
    assert said == [*[("answer: working", "run")] * 2, ("answer: ended", ""), ("answer: unknown", "")]


def test_what_was_changed_on_its_way_is_no_answer(office: Office) -> None:
    office.carry()
    office.work_is_done()
    (office.desk.run_dir(office.task) / "rounds/0001/clients/left/update.safetensors").write_bytes(b"an Update")
    office.carry(2)
    assert "changed on their way" in office.box.answer(office.request).message


def test_what_is_not_wanted_any_more_ends_on_its_node_and_the_courier_stays_until_it_has_heard(office: Office) -> None:
    office.carry()
    office.way.nodes = []
    office.box.withdraw(office.request)
    office.box.stop()
    office.carry_stopped(3)
    assert [ending.ask for ending in office.box.endings()] == [office.request.ask]
    assert not office.desk.is_ended(office.request.ask)
    office.way.nodes = [NODE]
    office.courier.carry()  # comes back, for the node has heard
    assert office.desk.is_ended(office.request.ask)
    assert list(office.box.endings()) == []
    assert list(office.desk.waiting()) == []
    assert list(office.desk.to_end()) == [office.request]
    office.desk.has_ended(office.request)
    assert list(office.desk.to_end()) == []


def test_work_for_a_run_that_is_deleted_ends_on_its_node(office: Office) -> None:
    office.carry()
    shutil.rmtree(office.store.folder)
    office.courier.carry()  # comes back
    assert office.desk.is_ended(office.request.ask)
    assert not office.store.folder.exists()


def test_what_a_node_never_got_is_not_begun_when_it_comes_late(office: Office) -> None:
    office.desk.end(office.request.ask)
    office.carry()
    assert list(office.desk.waiting()) == []
    office.carry()
    assert office.box.answer(office.request).state == "failed"


def test_what_is_done_is_not_ended(office: Office) -> None:
    office.carry()
    office.work_is_done()
    office.desk.end(office.request.ask)
    assert not office.desk.is_ended(office.request.ask)
    office.carry(2)
    office.box.withdraw(office.request)
    assert list(office.box.endings()) == []


def test_a_courier_ends_when_another_is_appointed_or_nobody_wants_it(office: Office) -> None:
    office.box.appoint("2")
    office.courier.carry()  # comes back
    assert office.way.sent == []
    office.box.stop()
    Courier(office.way, office.box, office.link, "2").carry()
    assert office.way.sent == []
