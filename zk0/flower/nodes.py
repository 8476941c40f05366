"""Who of a Flower federation does which client's work, and the way to ask them; any number of threads may ask.

A node says itself which client it is (`client` in its `--node-config`), or has a home, whose node.toml does; those that
say nothing, as in a simulation, share the clients that nobody is, in order.
"""

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from zk0.errors import ClientError, HopelessError
from zk0.files import untrusted
from zk0.link.parcel import packed, text_of
from zk0.work.executor import STOPPED

LOOK_S = 0.2
"""Between two looks for an answer."""
WHO_S = 1.0
"""Between two looks at who is there."""
MOST_WORDS = 200
"""The end of what Flower says of an error, which may be a whole traceback."""
WHO_TTL_S = 3600.0
"""A node that is at work on what an earlier run asked for says who it is after that."""

Words = Mapping[str, str]
"""What a node says of itself: `client`, `partition`, `home`; those that it has."""


class LockedGrid(Grid):
    """Flower's grid for several threads, one at a time: it does not say that it can be more.

    Args:
        grid: Flower's.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid, self._lock = grid, threading.Lock()

    def get_node_ids(self) -> Iterable[int]:
        """See Grid."""
        with self._lock:
            return list(self._grid.get_node_ids())

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """See Grid."""
        with self._lock:
            return list(self._grid.push_messages(messages))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """See Grid."""
        with self._lock:
            return list(self._grid.pull_messages(message_ids))

    def _unused(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError("zk0 needs no more of a grid")

    set_run = create_message = send_and_receive = _unused
    run = property(_unused)


class Nodes:
    """The nodes of one run.

    Args:
        grid: Flower's, locked.
        clients: names, in the config's order.
    """

    def __init__(self, grid: LockedGrid, clients: Sequence[str]) -> None:
        self._grid, self._clients = grid, clients
        self._lock = threading.Lock()
        self._said: dict[int, Words] = {}
        self._asked: dict[str, int] = {}
        self._here: set[int] = set()
        self._looked = float("-inf")

    def present(self) -> dict[str, int]:
        """Client -> Flower's id of the node that does its work, of those that are there."""
        with self._lock:
            self._look()
            return assigned(self._clients, {node: self._said[node] for node in self._here & self._said.keys()})

    def wait(self, limit_s: float) -> list[str]:
        """Wait until every client has a node; gives those that have none after so many seconds."""
        until = time.monotonic() + limit_s
        while (lacking := [name for name in self._clients if name not in self.present()]) and time.monotonic() < until:
            time.sleep(LOOK_S)
        return lacking

    def ask(self, client: str, content: RecordDict, kind: str, *, limit_s: float, away_s: float) -> RecordDict:
        """Ask a client's node, and wait for what it says.

        Args:
            client: its name.
            content: of the message.
            kind: Flower's type of it: `train`, `evaluate`, `query`.
            limit_s: longest time to wait, in seconds.
            away_s: longest time that it may be away, in seconds.

        Raises:
            ClientError: the run was ended; there is no answer in time, or Flower says that there will be none.
            HopelessError: the node is away.
        """
        began = seen = time.monotonic()
        message: str | None = None
        while (reply := None if message is None else self._pull(message)) is None:
            now, node = time.monotonic(), self.present().get(client)
            if STOPPED.is_set():
                raise ClientError("lost", "the run was ended")
            if node is not None:
                seen = now
                message = message or self._push(Message(content, node, kind, ttl=limit_s))
            if now - seen > away_s:
                raise HopelessError("lost", f"its node has been away for {away_s:g} s (executor.away_s)")
            if now - began > limit_s:
                raise ClientError("timeout", f"no answer of its node in {limit_s:g} s")
            time.sleep(LOOK_S)
        if reply.has_error():
            why = untrusted.words((reply.error.reason or "")[-MOST_WORDS:])
            raise ClientError("lost", f"its node gave no answer (Flower's error {reply.error.code}: {why})")
        return reply.content

    def _push(self, message: Message) -> str | None:
        return next(iter(self._grid.push_messages([message])), None) or None

    def _pull(self, message: str) -> Message | None:
        return next(iter(self._grid.pull_messages([message])), None)

    def _look(self) -> None:
        """See who is there, ask those who are new who they are, and hear them."""
        if time.monotonic() - self._looked < WHO_S:
            return
        self._here = set(self._grid.get_node_ids())
        new = sorted(self._here - self._said.keys() - set(self._asked.values()))
        questions = [Message(packed({}), node, "query.who", ttl=WHO_TTL_S) for node in new]
        asked = self._grid.push_messages(questions) if questions else ()
        self._asked |= {message: node for message, node in zip(asked, new, strict=True) if message}
        for reply in self._grid.pull_messages(list(self._asked)) if self._asked else ():
            node = self._asked.pop(reply.metadata.reply_to_message_id)
            if not reply.has_error():  # else it is asked again
                self._said[node] = text_of(reply.content)
        self._looked = time.monotonic()


def assigned(clients: Sequence[str], said: Mapping[int, Words]) -> dict[str, int]:
    """Client -> node.

    Args:
        clients: names, in the config's order.
        said: node -> what it says of itself.
    """
    named = {words["client"]: node for node, words in sorted(said.items(), reverse=True) if "client" in words}
    others = sorted((int(words.get("partition", 0)), node) for node, words in said.items() if "client" not in words)
    free = [name for name in clients if name not in named]
    shared = {name: others[number % len(others)][1] for number, name in enumerate(free)} if others else {}
    return {name: node for name, node in (named | shared).items() if name in clients}
