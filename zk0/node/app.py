"""The node's Flower ClientApp: a thin messenger between the link and the worker. It imports no torch, and does no work.

A question is answered at once where there is an answer, or after WAIT_S with how far the work is: so Flower's process
is never at work for long, and one that is killed costs nothing.
"""

import hashlib
import os
import time
from pathlib import Path
from typing import cast

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from zk0.errors import StorageError
from zk0.files import untrusted
from zk0.link.parcel import files_of, packed, text_of
from zk0.link.wire import Answer, Request
from zk0.node.desk import HOME_VARIABLE, Desk
from zk0.node.ledger import note
from zk0.node.request import WorkKind, WorkRequest
from zk0.node.settings import load

WAIT_S = 12.0
"""Longest that a question waits for its answer, and so from one word on how far work is to the next; below Flower's
lease of 30 s."""
LOOK_S = 0.1

app = ClientApp()


@app.query()
def query(message: Message, _context: Context) -> Message:
    """Take a request to the desk, or a question about one, and bring back what is there."""
    desk = Desk(Path(os.environ[HOME_VARIABLE]))
    text = text_of(message.content)
    if "request" in text:
        request = Request.model_validate_json(text["request"])
        try:
            desk.put(request, files_of(message.content))
        except (ValueError, StorageError) as error:
            why = "the node's disk" if isinstance(error, StorageError) else str(error)
            said = Answer(ask=request.ask, state="failed", cause="error", message=f"it was not taken in: {why}")
            _note(desk, said, [])
            return Message(_content(said, []), reply_to=message)
    if "end" in text:
        desk.end(text["end"])
        return Message(reply(desk, text["end"], wait_s=0), reply_to=message)
    return Message(reply(desk, request.ask if "request" in text else text["ask"]), reply_to=message)


def reply(desk: Desk, ask: str, wait_s: float = WAIT_S) -> RecordDict:
    """What there is to say to a question.

    Args:
        desk: the node's.
        ask: of the request.
        wait_s: longest time to wait for an end of the work, in seconds.
    """
    if (request := desk.request(ask)) is None:
        lacking = Answer(ask=ask, state="ended" if desk.is_ended(ask) else "unknown")
        _note(desk, lacking, [])
        return _content(lacking, [])
    until = time.monotonic() + wait_s
    while (said := desk.answer(ask)) is None:
        if desk.is_ended(ask):
            said = Answer(ask=ask, state="ended")
            break
        if time.monotonic() > until:
            said = Answer(ask=ask, state="working", progress=desk.progress(request))
            break
        time.sleep(LOOK_S)
    files = [untrusted.read(desk.place(request, ref), None) for ref in said.files]
    _note(desk, said, files)
    return _content(said, files)


def _note(desk: Desk, said: Answer, files: list[bytes]) -> None:
    """Write into the ledger what is about to leave.

    Raises:
        StorageError: it cannot be written: then nothing leaves.
    """
    asked = desk.asked(said.ask) or _unjudged(desk, said.ask)
    leaving = {f"answer: {said.state}": said.model_dump_json().encode()}
    leaving |= {Path(ref.path).name: content for ref, content in zip(said.files, files, strict=True)}
    for what, content in leaving.items():
        note(desk.home, request=asked, what=what, sha256=hashlib.sha256(content).hexdigest(), size=len(content))


def _unjudged(desk: Desk, ask: str) -> WorkRequest:
    """A request that nobody has looked at yet, or none: all that leaves is that it is there, or that it is not."""
    request = desk.request(ask)
    return WorkRequest(
        link=load(desk.home).link,
        run="" if request is None else request.run,
        config_digest="",
        version="" if request is None else request.versions.get("zk0", ""),
        kind="describe" if request is None or request.task is None else cast(WorkKind, request.task.kind),
        server_round=0 if request is None or request.task is None else request.task.server_round,
    )


def _content(said: Answer, files: list[bytes]) -> RecordDict:
    return packed({"answer": said.model_dump_json()}, files)
