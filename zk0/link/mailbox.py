"""The mailbox of a run: requests from the orchestrator, answers from the courier; every file is whole or not there.

`CLIENT.KEY.request` is there while its answer is wanted, `CLIENT.KEY.answer` once it is. What comes with an answer lies
beside it, `CLIENT.KEY.0.file`, and is there before it. `CLIENT.ASK.end` is there until the node knows that a request is
not wanted any more.
"""

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from loguru import logger
from pydantic import BaseModel

from zk0.errors import StorageError
from zk0.files import atomic, untrusted
from zk0.files.locks import taken
from zk0.link.wire import Answer, Ending, Request
from zk0.work.records import Record

REQUEST, ANSWER, PROGRESS, FILE, END = "request", "answer", "progress", "file", "end"
STATUS = "status.json"
OWNER = "owner.lock"
"""Held by the process whose checks a mailbox is for."""
APPOINTED = "appointed"
STOP = "stop"
MOST_BYTES = 16 * 2**20
"""Of a request or an answer without its files."""


class Status(Record):
    """What the courier says of itself, about once a second."""

    flower_run: str
    """Flower's id of the run that it is."""
    pid: int
    at: float
    """When, in seconds since 1970."""
    present: list[str]
    """Clients whose nodes are there."""


class Mailbox:
    """One folder; the orchestrator's threads and the courier may be at it at the same time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self) -> Self:
        """See that it is there, and wanted.

        Raises:
            StorageError: it cannot be made.
        """
        atomic.make_folder(self.folder)
        with atomic.storage_errors(self.folder / STOP, "removed"):
            (self.folder / STOP).unlink(missing_ok=True)
        return self

    @property
    def run_dir(self) -> Path:
        """What the files of requests and answers are relative to."""
        return self.folder.parent

    # -- the orchestrator's side

    def ask(self, request: Request) -> None:
        """Put a request in; whatever was said to an earlier one of that work is removed."""
        for path in (self._path(request, ANSWER), self._path(request, PROGRESS), *self.files(request)):
            path.unlink(missing_ok=True)
        atomic.write_bytes(self._path(request, REQUEST), request.model_dump_json().encode())

    def asked(self, client: str, key: str) -> Request | None:
        """The open request for a piece of work."""
        return _read(self.folder / f"{client}.{key}.{REQUEST}", Request)

    def answer(self, request: Request) -> Answer | None:
        """What was said to it; None where nothing was yet."""
        found = _read(self._path(request, ANSWER), Answer)
        return found if found is not None and found.ask == request.ask else None

    def files(self, request: Request) -> list[Path]:
        """What came with the answer, in its order."""
        found = self.folder.glob(f"{request.client}.{request.key}.*.{FILE}")
        return sorted(found, key=lambda path: int(path.name.split(".")[-2]))

    def progress(self, request: Request) -> dict[str, Any]:
        """How far it is; empty while that is unknown."""
        found = _read(self._path(request, PROGRESS), Answer)
        return found.progress if found is not None and found.ask == request.ask else {}

    def withdraw(self, request: Request) -> None:
        """Take a request out, with all that was said to it; without an answer its node is told to end the work."""
        if self.answer(request) is None and self.folder.is_dir():
            ending = Ending(ask=request.ask, client=request.client, until=request.until)
            atomic.write_bytes(self._end(ending), ending.model_dump_json().encode())
        for kind in (REQUEST, PROGRESS, ANSWER):
            self._path(request, kind).unlink(missing_ok=True)
        for path in self.files(request):
            path.unlink(missing_ok=True)

    def withdraw_all(self) -> bool:
        """Take every request out; gives whether a node has to be told."""
        for path in self.folder.glob(f"*.{REQUEST}"):
            if (request := _read(path, Request)) is not None:
                self.withdraw(request)
        return any(self.folder.glob(f"*.{END}"))

    def status(self) -> Status | None:
        """What the courier said last; None where it never did."""
        return _read(self.folder / STATUS, Status)

    def appoint(self, flower_run: str) -> None:
        """Say which courier this mailbox is for; an earlier one that lives still ends itself."""
        atomic.write_bytes(self.folder / APPOINTED, flower_run.encode())

    def stop(self) -> None:
        """Let the courier end."""
        (self.folder / STOP).touch()

    # -- the courier's side

    def open_requests(self) -> Iterator[Request]:
        """Requests without an answer that somebody may still wait for."""
        for path in sorted(self.folder.glob(f"*.{REQUEST}")):
            request = _read(path, Request)
            if request is not None and self.answer(request) is None and request.until > time.time():
                yield request

    def endings(self) -> Iterator[Ending]:
        """What is not wanted any more, as long as its node may be at it."""
        for path in sorted(self.folder.glob(f"*.{END}")):
            if (ending := _read(path, Ending)) is None:
                continue
            if ending.until < time.time():
                self.told(ending)
            else:
                yield ending

    def told(self, ending: Ending) -> None:
        """Its node knows."""
        self._end(ending).unlink(missing_ok=True)

    def tell(self, request: Request, said: Answer, files: Sequence[bytes] = ()) -> None:
        """Write what a node said; of work under way only how far it is."""
        if said.state == "working":
            atomic.write_bytes(self._path(request, PROGRESS), said.model_dump_json().encode())
            return
        for number, content in enumerate(files):
            atomic.write_bytes(self.folder / f"{request.client}.{request.key}.{number}.{FILE}", content)
        atomic.write_bytes(self._path(request, ANSWER), said.model_dump_json().encode())

    def say(self, status: Status) -> None:
        """Write what the courier says of itself."""
        atomic.write_bytes(self.folder / STATUS, status.model_dump_json().encode())

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Keep it for as long as this process lives: no run has it, which could go on with it."""
        descriptor = os.open(self.folder / OWNER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _has_lost_its_owner(self) -> bool:
        try:
            descriptor = os.open(self.folder / OWNER, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False  # it never had one
        try:
            return taken(descriptor, shared=True)
        except OSError:
            return False
        finally:
            os.close(descriptor)

    def is_anothers(self, flower_run: str, since: float) -> bool:
        """Whether another courier was appointed after this one began, in seconds since 1970."""
        path = self.folder / APPOINTED
        with suppress(OSError):
            return path.stat().st_mtime >= since and path.read_text(encoding="ascii") != flower_run
        return False

    @property
    def stopped(self) -> bool:
        """Whether the courier is to end."""
        return not self.folder.is_dir() or (self.folder / STOP).exists() or self._has_lost_its_owner()

    def _end(self, ending: Ending) -> Path:
        return self.folder / f"{ending.client}.{ending.ask}.{END}"

    def _path(self, request: Request, kind: str) -> Path:
        return self.folder / f"{request.client}.{request.key}.{kind}"


def _read[R: BaseModel](path: Path, record: type[R]) -> R | None:
    """A record of the mailbox; one that is none is named in the log and counts as not there."""
    try:
        with atomic.storage_errors(path, "read"):
            if not untrusted.is_there(path):
                return None
            return record.model_validate_json(untrusted.read(path, MOST_BYTES))
    except StorageError as error:
        if path.exists():  # not taken out between the two
            logger.warning("Mailbox: {}", error)
        return None
