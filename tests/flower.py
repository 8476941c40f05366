"""`flwr run` without Flower's processes: ServerApp and ClientApp, and a grid between them that takes every message.

`python -m tests.flower '{"config": "small.toml"}'` trains.
"""

import json
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NoReturn

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from zk0.flower import client_app, server_app

type Handle = Callable[[Message, Context], Message]


class LocalGrid(Grid):
    """Nodes of this process.

    Args:
        nodes: id -> node config, as `--node-config` gives it.
        handle: what a node does with a message.
    """

    def __init__(self, nodes: dict[int, dict[str, Any]], handle: Handle = client_app.app) -> None:
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
        self.nodes, self.handle = nodes, handle
        self.sent: list[tuple[int, str]] = []
        self._pool = ThreadPoolExecutor(4)
        self._replies: dict[str, Future[Message]] = {}

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return [self._push(message) for message in messages]

    def _push(self, message: Message) -> str:
        number, node = str(len(self.sent)), message.metadata.dst_node_id
        message.metadata.__dict__["_message_id"] = number
        self.sent.append((node, message.metadata.message_type))
        self._replies[number] = self._pool.submit(self.handle, message, context(self.nodes[node]))
        return number

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        done = [number for number in message_ids if number in self._replies and self._replies[number].done()]
        return [self._replies.pop(number).result() for number in done]

    def _fail(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise AssertionError("zk0 needs no more of a grid")

    set_run = create_message = send_and_receive = _fail
    run = property(_fail)


def context(node_config: dict[str, Any], run_config: dict[str, Any] | None = None) -> Context:
    return Context(run_id=1, node_id=1, node_config=node_config, state=RecordDict(), run_config=run_config or {})


def main(run_config: dict[str, Any]) -> None:
    grid = LocalGrid({11: {"partition-id": 0, "num-partitions": 2}, 12: {"partition-id": 1, "num-partitions": 2}})
    server_app.app(grid, context({}, run_config))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
