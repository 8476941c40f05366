"""Which node does which client's work, and what becomes of a question."""

import pytest
from flwr.app import Context, Error, Message

from tests.flower import LocalGrid
from zk0.errors import ClientError, HopelessError
from zk0.flower.client_app import app
from zk0.flower.nodes import LockedGrid, Nodes, assigned
from zk0.link.parcel import packed, text_of
from zk0.work.executor import STOPPED

CLIENTS = ["kitchen", "workshop", "study"]


@pytest.mark.parametrize(
    ("said", "to"),
    [
        ({9: {"partition": "1"}, 5: {"partition": "0"}}, [5, 9, 5]),  # a simulation of fewer nodes than clients
        ({9: {"partition": "0"}}, [9, 9, 9]),
        ({1: {"client": "study"}, 2: {"client": "kitchen"}, 3: {"client": "workshop"}}, [2, 3, 1]),
        ({1: {"client": "study"}, 2: {"client": "attic"}}, [None, None, 1]),
        ({1: {"client": "study"}, 2: {}}, [2, 2, 1]),
        ({4: {"client": "study"}, 2: {"client": "study"}}, [None, None, 2]),
        ({}, [None, None, None]),
    ],
)
def test_who_does_whose_work(said: dict[int, dict[str, str]], to: list[int | None]) -> None:
    found = assigned(CLIENTS, said)
    assert [found.get(name) for name in CLIENTS] == to


def echo(message: Message, context: Context) -> Message:
    if message.metadata.message_type == "query.who":
        return app(message, context)
    return Message(packed({"heard": text_of(message.content)["said"]}), reply_to=message)


def ask(nodes: Nodes, client: str = "study", limit_s: float = 30.0) -> dict[str, str]:
    return text_of(nodes.ask(client, packed({"said": "hello"}), "train", limit_s=limit_s, away_s=0.3))


def test_a_client_is_asked_at_its_node() -> None:
    grid = LocalGrid({1: {"client": "kitchen"}, 2: {"client": "study"}}, echo)
    assert ask(Nodes(LockedGrid(grid), CLIENTS)) == {"heard": "hello"}
    assert grid.sent[-1] == (2, "train")
    assert Nodes(LockedGrid(grid), CLIENTS).wait(0.2) == ["workshop"]


def test_a_node_that_joins_is_found_and_one_that_leaves_is_missed() -> None:
    grid = LocalGrid({}, echo)
    nodes = Nodes(LockedGrid(grid), CLIENTS)
    with pytest.raises(HopelessError, match=r"its node has been away for 0\.3 s \(executor\.away_s\)"):
        ask(nodes)
    grid.nodes[3] = {"client": "study"}
    assert ask(nodes) == {"heard": "hello"}
    del grid.nodes[3]
    with pytest.raises(HopelessError, match="away"):
        ask(nodes)


def test_flowers_own_errors_cost_an_attempt_and_name_their_number() -> None:
    def fails(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "query.who":
            return app(message, context)
        return Message(Error(code=2, reason="x" * 5000 + " ImportError: no zk0"), reply_to=message)

    with pytest.raises(ClientError, match=r"Flower's error 2: x* ?ImportError: no zk0") as caught:
        ask(Nodes(LockedGrid(LocalGrid({2: {"client": "study"}}, fails)), CLIENTS))
    assert (caught.value.cause, caught.value.retriable, len(str(caught.value)) < 300) == ("lost", True, True)


def test_a_node_that_cannot_say_who_it_is_is_asked_again() -> None:
    said: list[str] = []

    def shy(message: Message, context: Context) -> Message:
        said.append(message.metadata.message_type)
        return Message(Error(code=5, reason="away"), reply_to=message) if len(said) < 3 else echo(message, context)

    assert ask(Nodes(LockedGrid(LocalGrid({2: {"client": "study"}}, shy)), CLIENTS)) == {"heard": "hello"}


def test_no_answer_in_time_is_a_timeout_and_a_run_that_ends_waits_for_none() -> None:
    grid = LocalGrid({2: {"client": "study"}}, echo)
    nodes = Nodes(LockedGrid(grid), CLIENTS)
    assert nodes.wait(0.2) == ["kitchen", "workshop"]
    grid.pull_messages = lambda _: []  # type: ignore[assignment]
    with pytest.raises(ClientError, match=r"no answer of its node in 0\.2 s") as caught:
        ask(nodes, limit_s=0.2)
    assert caught.value.cause == "timeout"
    STOPPED.set()
    with pytest.raises(ClientError, match="the run was ended"):
        ask(nodes)
