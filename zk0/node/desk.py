"""The desk between the messenger and the worker: requests that came, and what was made of them, in the node's home.

`work/asks/ASK/request.json` is written last of what a request brings; `answer.json`, by the worker, last of what
came of it. What a request brings, and what work leaves, lies in `work/runs/RUN/`, which looks like a run directory.
"""

import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from zk0.errors import StorageError
from zk0.files import atomic, untrusted
from zk0.layout import PROGRESS_FILE
from zk0.link.wire import MEMORY, STEPS, Answer, Request
from zk0.memory.samples import read_samples
from zk0.metrics.values import number
from zk0.node.request import WorkRequest
from zk0.work.records import ArtifactRef, ClientTask

HOME_VARIABLE = "ZK0_NODE_HOME"
"""Environment variable: the node's home, for what Flower starts."""
WORK_FOLDER = "work"
_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_ASK = re.compile(r"[0-9a-f]{32}")
ENDED, SWEPT = "ended", "ended.done"
"""Beside a request: it is not wanted any more; and nothing of it is at work."""
KEPT_ASKS = 200
"""Requests that are kept; then the oldest go, whose work lies in its run's folder all the same."""
FRESH_S = 120.0
"""A sample of memory that is older, in seconds, is not of work under way."""
FIRST_PARTS = ("rounds", "base")
"""What a request may bring lies in one of these."""


class Desk:
    """One node's.

    Args:
        home: of the node.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = home / WORK_FOLDER
        self._over: set[str] = set()
        """Asks that need not be looked at again."""

    def put(self, request: Request, files: Sequence[bytes]) -> None:
        """Take a request in; what comes with it is held against its digests and written first.

        Raises:
            ValueError: it names other files than it brings, or places where none may be.
            StorageError: it cannot be written.
        """
        if len(files) != len(request.files):
            raise ValueError("its files are not those that it names")
        for ref, content in zip(request.files, files, strict=True):
            if hashlib.sha256(content).hexdigest() != ref.sha256:
                raise ValueError(f"{ref.path}: its SHA-256 is not the one that the request names")
            path = self.place(request, ref)
            if not _is(path, ref):
                atomic.write_bytes(path, content)
        if self.request(request.ask) is None:
            atomic.write_bytes(self._ask(request.ask) / "request.json", request.model_dump_json().encode())

    def place(self, request: Request, ref: ArtifactRef) -> Path:
        """Where a file of a request lies.

        Raises:
            ValueError: where none may be.
        """
        parts = ref.path.split("/")
        if request.task is None or parts[0] not in FIRST_PARTS or not all(map(_PART.fullmatch, parts)):
            raise ValueError(f"{untrusted.words(ref.path)}: no file of a run lies there")
        return self.run_dir(request.task).joinpath(*parts)

    def run_dir(self, task: ClientTask) -> Path:
        """Where the work of a run lies.

        Raises:
            ValueError: it has an odd name.
        """
        if not _PART.fullmatch(task.run_id):
            raise ValueError("run_id is no name")
        return self.folder / "runs" / task.run_id

    def request(self, ask: str) -> Request | None:
        """What was asked for."""
        return self._read(ask, "request.json", Request)

    def answer(self, ask: str) -> Answer | None:
        """What the worker made of it; None while it is at work."""
        return self._read(ask, "answer.json", Answer)

    def tell(self, request: Request, answer: Answer) -> None:
        """Write what became of a request."""
        atomic.write_bytes(self._ask(request.ask) / "answer.json", answer.model_dump_json().encode())
        for folder in sorted((self.folder / "asks").iterdir(), key=_age)[:-KEPT_ASKS]:
            untrusted.remove_tree(folder)

    def judged(self, request: Request, asked: WorkRequest) -> None:
        """Write down as what a request was judged, for the ledger."""
        atomic.write_bytes(self._ask(request.ask) / "asked.json", asked.model_dump_json().encode())

    def asked(self, ask: str) -> WorkRequest | None:
        """As what a request was judged; None before that."""
        return self._read(ask, "asked.json", WorkRequest)

    def waiting(self) -> Iterator[Request]:
        """Requests without an answer that are wanted, the oldest first."""
        asks = self.folder / "asks"
        paths = list(asks.glob("*/request.json")) if asks.is_dir() else []
        for path in sorted((path for path in paths if path.parent.name not in self._over), key=_age):
            request = self.request(path.parent.name)
            if request is None or self.is_ended(request.ask):
                continue
            if self.answer(request.ask) is None:
                yield request
            else:
                self._over.add(request.ask)

    def end(self, ask: str) -> None:
        """Note that a request is not wanted any more; one that comes only now is none, either."""
        if self.answer(ask) is None:
            atomic.write_bytes(self._ask(ask) / ENDED, b"")

    def is_ended(self, ask: str) -> bool:
        """Whether it is not wanted any more."""
        return (self._ask(ask) / ENDED).exists()

    def to_end(self) -> Iterator[Request]:
        """Requests that are not wanted any more, of which something may be at work still."""
        asks = self.folder / "asks"
        for path in asks.glob(f"*/{ENDED}") if asks.is_dir() else ():
            ask = path.parent.name
            if ask not in self._over and not (path.parent / SWEPT).exists():
                request = self.request(ask)
                if request is not None:
                    yield request

    def has_ended(self, request: Request) -> None:
        """Note that nothing of a request is at work any more."""
        atomic.write_bytes(self._ask(request.ask) / SWEPT, b"")
        self._over.add(request.ask)

    def progress(self, request: Request) -> dict[str, float]:
        """How far work is, and what memory it uses, as numbers alone."""
        if request.task is None:
            return {}
        folder = request.task.model_copy(update={"run_dir": str(self.run_dir(request.task))}).folder
        return {**_memory(folder), **_steps(folder, request.task.kind)}

    @contextmanager
    def manned(self) -> Iterator[bool]:
        """Be the one worker at the desk; gives False where another one is."""
        atomic.make_folder(self.folder)
        descriptor = os.open(self.folder / "worker.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield True
                return
            yield False
        finally:
            os.close(descriptor)

    def _ask(self, ask: str) -> Path:
        if not _ASK.fullmatch(ask):
            raise ValueError("ask is none")
        return self.folder / "asks" / ask

    def _read[R: (Request, Answer, WorkRequest)](self, ask: str, name: str, record: type[R]) -> R | None:
        path = self._ask(ask) / name
        try:
            with atomic.storage_errors(path, "read"):
                return record.model_validate_json(untrusted.read(path, None)) if path.is_file() else None
        except StorageError:
            return None


def _steps(folder: Path, kind: str) -> dict[str, float]:
    try:
        said: dict[str, Any] = json.loads(untrusted.read(folder / PROGRESS_FILE))
        return {name: float(said[name]) for name in STEPS} if said.get("kind") == kind else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _memory(folder: Path) -> dict[str, float]:
    """The newest sample of the work under way; nothing where it is old, or none."""
    samples = read_samples(folder)
    if not samples or time.time() - float(samples[-1].get("at", 0)) > FRESH_S:
        return {}
    return {name: value for name in MEMORY if (value := number(samples[-1].get(name))) is not None}


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _is(path: Path, ref: ArtifactRef) -> bool:
    """Whether a file is there as it should be."""
    try:
        atomic.verify(path, ref.sha256, ref.size)
    except StorageError:
        return False
    return True
