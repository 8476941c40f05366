"""The courier: a public Flower ServerApp that carries requests from a mailbox to nodes, and answers back.

It has no loop over rounds and no state: killed at any moment and submitted again, it asks for what is still open, and a
node answers from what it has done, or goes on with what it is doing. A node is asked at short intervals rather than
once for a whole fit: so it can say how far it is, and a message that is lost costs no work.
"""

import hashlib
import json
import os
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp
from pydantic import ValidationError

from zk0.errors import ConfigError, StorageError
from zk0.files import untrusted
from zk0.link.mailbox import Mailbox, Status
from zk0.link.parcel import files_of, packed, text_of
from zk0.link.registry import bound
from zk0.link.settings import LOG
from zk0.link.wire import Answer, Ending, Request

LOOK_S = 0.1
"""Between two looks at the mailbox and at the link."""
STATUS_S = 1.0
"""Between two looks at who is there."""
IDLE_S = 300.0
"""Without an open request for so long the courier ends; the next one is submitted when it is needed."""
TTL_S = 900.0
"""Seconds until Flower drops a message: a node that is busy with another, or whose line is slow, must come to it."""
MOST_ERRORS = 5
"""Messages running without an answer of zk0's, after which the work counts as lost."""
PAUSE_S = 2.0
"""After one of them, before the next."""
ENDING_S = 600.0
"""How long a courier that is not wanted any more still tries to tell nodes that their work is not."""
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Carry until somebody wants it to end, or nobody wants anything for long."""
    box, link = Mailbox(Path(str(context.run_config["mailbox"]))), Path(str(context.run_config["link"]))
    Courier(grid, box, link, str(context.run_id)).carry()


class _Way:
    """Where the carrying of one request stands."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.message: str | None = None
        """Under way."""
        self.known = False
        """Whether the node has the request: then it is asked about it, which costs less than sending it."""
        self.errors = 0
        self.not_before = 0.0


class _End:
    """Where the telling of one ending stands."""

    def __init__(self, ending: Ending) -> None:
        self.ending = ending
        self.message: str | None = None
        """Under way."""
        self.not_before = 0.0


class Courier:
    """Carries between one mailbox and the nodes.

    Args:
        grid: Flower's.
        box: the mailbox.
        link: the link's folder, which says whose node is whose.
        flower_run: Flower's id of the run that this is.
    """

    def __init__(self, grid: Grid, box: Mailbox, link: Path, flower_run: str) -> None:
        self._grid, self._box, self._link, self._flower_run = grid, box, link, flower_run
        self._began = time.time()
        self._ways: dict[str, _Way] = {}
        self._ends: dict[str, _End] = {}
        self._present: dict[str, int] = {}

    def carry(self) -> None:
        """See `main`."""
        looked, wanted = 0.0, time.monotonic()
        while time.monotonic() - wanted < IDLE_S:
            if self._box.is_anothers(self._flower_run, self._began):
                return
            stopped = self._box.stopped
            if time.monotonic() - looked > STATUS_S:
                looked = time.monotonic()
                self.look(quiet=stopped)
            open_ = self.step(stopped=stopped)
            if stopped and (not self._ends or time.monotonic() - wanted > ENDING_S):
                return
            if open_ and not stopped:
                wanted = time.monotonic()
            time.sleep(LOOK_S)

    def step(self, *, stopped: bool = False) -> int:
        """Take up what is wanted, and bring what has come; gives how many requests are open.

        Args:
            stopped: nothing is wanted any more, but that nodes hear of that.
        """
        if stopped:
            self._drop_all()
        else:
            self._take_up()
            self._send()
            self._receive()
        self._tell_ends()
        return len(self._ways)

    def look(self, *, quiet: bool = False) -> None:
        """See who is there, and say so; who is registered may change at any time.

        Args:
            quiet: nobody wants to hear it.
        """
        try:
            nodes = bound(self._link)
        except (ConfigError, StorageError):
            nodes = {}
        here = set(self._grid.get_node_ids())
        self._present = {client: node for client, node in nodes.items() if node in here}
        status = Status(flower_run=self._flower_run, pid=os.getpid(), at=time.time(), present=sorted(self._present))
        if not quiet:
            self._box.say(status)

    def _take_up(self) -> None:
        """See what is wanted, and what is not any more."""
        wanted = {request.ask: request for request in self._box.open_requests()}
        for ask in self._ways.keys() - wanted.keys():
            del self._ways[ask]
        for ask, request in wanted.items():
            self._ways.setdefault(ask, _Way(request))

    def _drop_all(self) -> None:
        """What nodes were asked for is not wanted any more, even where the mailbox is gone that could say so."""
        for way in self._ways.values():
            request = way.request
            ending = Ending(ask=request.ask, client=request.client, until=request.until)
            self._ends.setdefault(request.ask, _End(ending))
        self._ways.clear()

    def _tell_ends(self) -> None:
        """Tell nodes what is not wanted any more."""
        for ending in self._box.endings():
            self._ends.setdefault(ending.ask, _End(ending))
        sent = {end.message: end for end in self._ends.values() if end.message is not None}
        for reply in self._grid.pull_messages(list(sent)) if sent else ():
            end = sent[reply.metadata.reply_to_message_id]
            end.message, end.not_before = None, time.monotonic() + PAUSE_S
            if not reply.has_error():
                self._box.told(self._ends.pop(end.ending.ask).ending)
        for end in self._ends.values():
            node = self._present.get(end.ending.client)
            if node is not None and end.message is None and time.monotonic() >= end.not_before:
                content = packed({"end": end.ending.ask})
                end.message = next(iter(self._grid.push_messages([Message(content, node, "query", ttl=TTL_S)])), None)

    def _send(self) -> None:
        for way in self._ways.values():
            node = self._present.get(way.request.client)
            if node is None or way.message is not None or time.monotonic() < way.not_before:
                continue
            try:
                content = self._content(way)
            except OSError as error:
                self._end(way, f"what the work needs cannot be read on the coordinator's side: {error.strerror}")
                continue
            way.message = next(iter(self._grid.push_messages([Message(content, node, "query", ttl=TTL_S)])), None)

    def _content(self, way: _Way) -> RecordDict:
        """The request, or a question about it."""
        request = way.request
        if way.known:
            return packed({"ask": request.ask})
        files = [untrusted.read(self._box.run_dir / ref.path, None) for ref in request.files]
        return packed({"request": request.model_dump_json()}, files)

    def _receive(self) -> None:
        ways = {way.message: way for way in self._ways.values() if way.message is not None}
        for reply in self._grid.pull_messages(list(ways)) if ways else ():
            way = ways[reply.metadata.reply_to_message_id]
            way.message = None
            if reply.has_error():
                self._error(way, reply.error.code)
                continue
            try:
                said = Answer.model_validate_json(text_of(reply.content)["answer"])
                files = files_of(reply.content)
                _check(said, way.request, files)
            except (ValueError, KeyError, ValidationError) as error:
                self._end(way, f"its node's answer is none: {untrusted.words(error)}")
                continue
            if said.state == "failed":
                self._say(f"client {way.request.client!r}, on its node: {said.message}")
            way.errors = 0
            way.known = said.state != "unknown"
            if said.state == "ended":
                self._end(way, "its node has ended it")
            elif way.known:
                self._box.tell(way.request, said, files)

    def _error(self, way: _Way, code: int) -> None:
        """Flower's own word that a message got no answer; its text may be a node's, and goes nowhere."""
        way.errors += 1
        way.not_before = time.monotonic() + PAUSE_S
        if way.errors >= MOST_ERRORS:
            self._end(way, f"its node gave no answer {way.errors} times running (Flower's error {code})")

    def _say(self, text: str) -> None:
        """A line for the link's log: what a ServerApp prints, Flower keeps to itself."""
        line = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} courier: {untrusted.words(text)}\n"
        with suppress(OSError), os.fdopen(untrusted.open_plain(self._link / LOG, _APPEND), "ab") as log:
            log.write(line.encode())

    def _end(self, way: _Way, why: str) -> None:
        self._say(f"client {way.request.client!r}: {why}")
        said = Answer(ask=way.request.ask, state="failed", cause="lost", message=why)
        self._box.tell(way.request, said)


def _check(said: Answer, request: Request, files: list[bytes]) -> None:
    """See that an answer is to this request, and that what came with it is what it names."""
    if said.ask != request.ask:
        raise ValueError("it is to another request")
    if [ref.size for ref in said.files] != [len(data) for data in files]:
        raise ValueError("its files are not those that it names")
    if [ref.sha256 for ref in said.files] != [hashlib.sha256(data).hexdigest() for data in files]:
        raise ValueError("its files were changed on their way")
    if said.state == "done" and request.task is not None and _key_of(said.result) not in (None, request.key):
        raise ValueError("it is a result of other work")


def _key_of(result: str) -> str | None:
    """Of which work a result says that it is; None where it says nothing, which the coordinator's door finds out."""
    try:
        key = json.loads(result)["key"]
    except (ValueError, KeyError, TypeError):
        return None
    return str(key)
