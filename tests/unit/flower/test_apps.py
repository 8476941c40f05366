"""What a node answers that sees no run, or has no home; and the link that a `flwr run` is itself."""

from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import Message

from benchmarks.links import until
from tests.flower import LocalGrid, context
from zk0.config import RunConfig
from zk0.errors import ClientError, HopelessError, PassingError
from zk0.flower import server_app
from zk0.flower.carried import NO_NODE, carried, with_link
from zk0.flower.client_app import app
from zk0.flower.in_place import InPlaceExecutor
from zk0.flower.nodes import LockedGrid, Nodes
from zk0.layout import COURIER_FOLDER
from zk0.link import submit
from zk0.link.folder import open_link
from zk0.link.mailbox import Mailbox
from zk0.link.parcel import packed, text_of
from zk0.link.wire import Answer
from zk0.runs.store import RunStore


def nodes_of(config: RunConfig, **clients: int) -> Nodes:
    grid = LocalGrid({node: {"client": name} for name, node in clients.items()})
    return Nodes(LockedGrid(grid), [client.name for client in config.clients])


def test_a_node_that_sees_no_run_says_so(store: RunStore, tmp_path: Path) -> None:
    executor = InPlaceExecutor(store.config, nodes_of(store.config, kitchen=3, workshop=4))
    elsewhere = store.task("statistics", 0, "kitchen").model_copy(update={"run_dir": str(tmp_path / "elsewhere")})
    with pytest.raises(
        HopelessError, match=r"statistics of 'kitchen': its node does not see .*elsewhere; put outputs_dir"
    ):
        executor.run(elsewhere)
    other = store.task("statistics", 0, "kitchen").model_copy(update={"run_id": "0" * 16})
    with pytest.raises(HopelessError, match="does not see"):
        executor.run(other)


def test_a_failure_crosses_with_its_cause_and_is_retried_where_it_may_pass(store: RunStore) -> None:
    said: list[Answer] = []

    def fails(message: Message, of: object) -> Message:
        if message.metadata.message_type == "query.who":
            return app(message, context({"client": "kitchen"}))
        return Message(packed({"answer": said[-1].model_dump_json()}), reply_to=message)

    grid = LockedGrid(LocalGrid({3: {"client": "kitchen"}}, fails))
    executor = InPlaceExecutor(store.config, Nodes(grid, ["kitchen", "workshop"]))
    for repeats in (False, True):
        said.append(Answer(ask="0" * 32, state="failed", cause="out_of_memory", message="no more", repeats=repeats))
        with pytest.raises(ClientError, match="no more") as caught:
            executor.run(store.task("statistics", 0, "kitchen"))
        assert (caught.value.cause, caught.value.retriable) == ("out_of_memory", not repeats)
    said.append(Answer(ask="0" * 32, state="done"))
    with pytest.raises(ClientError, match="what its node left is no result of this work"):
        executor.run(store.task("statistics", 0, "kitchen"))


def test_a_node_without_a_home_has_no_answer_to_a_courier() -> None:
    grid = LocalGrid({3: {"client": "kitchen"}})
    nodes = Nodes(LockedGrid(grid), ["kitchen"])
    said = nodes.ask("kitchen", packed({"ask": "0" * 32}), "query", limit_s=30, away_s=30)
    answer = Answer.model_validate_json(text_of(said)["answer"])
    assert (answer.state, answer.repeats) == ("failed", True)
    assert "it has no home; start its SuperNode with --node-config" in answer.message


def test_too_few_nodes_end_a_start_and_fewer_than_all_do_not(
    small_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    monkeypatch.setattr(server_app, "JOIN_S", 0.3)
    both = small_config()
    with pytest.raises(PassingError, match=r"1 of 2 clients have a node after 0 s \(not workshop\)"):
        server_app.wait_for(nodes_of(both, kitchen=3), both)
    one = small_config(federation__min_train_clients=1)
    server_app.wait_for(nodes_of(one, kitchen=3), one)
    assert warnings == ["no node for workshop: the run goes on without\n"]


def test_the_server_app_is_a_link_while_it_runs(small_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    config = with_link(small_config(executor__kind="superlink"))
    inner = LocalGrid({3: {"client": "kitchen"}})
    grid = LockedGrid(inner)
    box = Mailbox(tmp_path / "run" / COURIER_FOLDER).make()
    with carried(config, grid, Nodes(grid, ["kitchen", "workshop"]), 77):
        link = open_link(config.executor.link)
        assert until(lambda: open_link(config.executor.link).nodes == {"kitchen": 3, "workshop": NO_NODE}, 10)
        inner.nodes[4] = {"client": "workshop"}
        assert submit.submit(link, box) == "77"
        said = until(lambda: [box.status()] if box.status() and box.status().present[1:] else [], 10)[0]
        assert (said.flower_run, said.present) == ("77", ["kitchen", "workshop"])
        submit.end(link, "77")  # of a courier in this process: nothing to do
        box.stop()
    assert link.folder not in submit.here
