"""A call of a function in a process of its own: its small result comes back, or its error in the error's own words."""

import faulthandler
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from loguru import logger

from zk0 import errors
from zk0.errors import (
    ClientError,
    PassingError,
    StorageError,
    UnforeseenError,
    UnforeseenInputError,
    Zk0Error,
    during,
)
from zk0.executors.death import FORK_SERVER_GONE
from zk0.executors.living import kill_tree, process_of, runs
from zk0.memory.cgroup import machine_oom_kills
from zk0.work.failure import crash
from zk0.work.told import Told, tell

STARTS = 3
"""Processes that may be killed under one piece of work before it is given up: some end where memory does."""
POLL_S = 0.5
"""Between two looks at a process whose fork server has died, which would have told its end."""
LEAVE_S = 10.0
"""What a process may take to end after its answer, in seconds; then it is ended."""
MOST_WORDS = 2**16
"""Bytes of what Python says of a crash: what a pipe takes without a reader."""
_OF_INPUT: set[Callable[..., Any]] = set()


def of_input[**P, R](function: Callable[P, R]) -> Callable[P, R]:
    """Mark a function that looks at what the user gave, before anything is written: a library's error is bad input."""
    _OF_INPUT.add(function)
    return function


class Starter(Protocol):
    """Who starts the process."""

    def started(self, target: Callable[..., None], arguments: tuple[Any, ...], name: str) -> ForkServerProcess:
        """See `ProcessExecutor.started`."""
        ...


class Answer(NamedTuple):
    """What a function returned."""

    value: Any


class RemoteTraceback(Exception):  # noqa: N818 - not raised: it is the cause of one that is
    """The traceback of an error in the process that met it."""


def call[**P, R](starter: Starter, function: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
    """Call a function in a process of its own.

    Args:
        starter: of the process.
        function: may be called again where its process was killed.
        arguments: of the function.
        named: of the function.

    Raises:
        Zk0Error: the function's own, of the same class.
        UnforeseenError: what else it raised, or compiled code that crashed; an UnforeseenInputError of what is
            marked by `of_input`.
        PassingError, StorageError: the same where a network, a device or a disk had a part in it.
        ClientError: its process was killed every time, or for want of memory.
    """
    name = getattr(function, "__name__", "call")
    request = bytes(ForkingPickler.dumps((function, arguments, named)))
    for _ in range(STARTS):
        kills = machine_oom_kills()
        reply, ended = _asked(starter, name, request)
        if isinstance(reply, Answer):
            result: R = reply.value
            return result
        if isinstance(reply, Told):
            raise error_of(reply, of_input=function in _OF_INPUT) from RemoteTraceback(f"\n{reply.trace}")
        if ended.code in (-signal.SIGKILL, FORK_SERVER_GONE) and machine_oom_kills() > kills:
            why = "the kernel has killed for want of memory; free some, or lower executor.max_parallel"
            raise ClientError("out_of_memory", f"{name}: its process died: {why}")
        if ended.code >= 0 and ended.code != FORK_SERVER_GONE:
            raise UnforeseenError(f"{name}: its process ended itself with exit code {ended.code}, and said nothing")
        if (crashed := crash(-ended.code, ended.words)) is not None:
            kind = UnforeseenInputError if function in _OF_INPUT else UnforeseenError
            raise kind(f"{name}: {crashed}")
        logger.warning("{}: its process {}: starting another", name, ended.how)
    raise ClientError("lost", f"{name}: its process {ended.how}, {STARTS} times; see who or what ends it")


def error_of(told: Told, *, of_input: bool) -> Zk0Error:
    """The error of ours that one is raised as, in the process that asked.

    Args:
        told: the error.
        of_input: whether it came of what the user gave, and nothing was written.
    """
    if told.kind is not None:
        kind: type[Zk0Error] = vars(errors)[told.kind]
        return kind(told.cause, told.words) if issubclass(kind, ClientError) else kind(told.words)
    if told.cause == "out_of_memory":
        return ClientError(told.cause, told.words)
    if told.disk:
        return StorageError(told.words)
    if told.passes:
        return PassingError(told.words)
    return (UnforeseenInputError if of_input else UnforeseenError)(told.words)


def kept_trace(error: Zk0Error) -> Path | None:
    """A file with the traceback of an error that nobody foresaw, for a report; None where there is none."""
    trace = error.__cause__
    if not isinstance(error, UnforeseenError | PassingError) or not isinstance(trace, RemoteTraceback):
        return None
    try:
        with tempfile.NamedTemporaryFile("w", prefix="zk0-", suffix=".log", delete=False, encoding="utf-8") as file:
            file.write(str(trace).lstrip())
    except OSError:
        return None
    return Path(file.name)


class Ended(NamedTuple):
    """How a process ended that gave no answer."""

    code: int
    words: str
    """What it said of a crash."""

    @property
    def how(self) -> str:
        """In words."""
        if self.code == FORK_SERVER_GONE:
            return "is gone, and its fork server with it"
        return f"was killed by {signal.Signals(-self.code).name}"


def _asked(starter: Starter, name: str, request: bytes) -> tuple[object, Ended]:
    """The answer of a new process, None where it gave none; and how it ended."""
    reader, writer = connection.Pipe(duplex=False)
    words, wordy = connection.Pipe(duplex=False)
    with reader, words:
        with writer, wordy:
            process = starter.started(_answer, (writer, wordy, request), name)
        try:
            reply = _reply(process, reader)
            process.join(LEAVE_S)
        finally:
            if process.exitcode in (None, FORK_SERVER_GONE):
                kill_tree(process.pid)
                process.join()
        assert process.exitcode is not None
        said = os.read(words.fileno(), MOST_WORDS) if words.poll() else b""
        return reply, Ended(process.exitcode, said.decode(errors="replace"))


def _reply(process: ForkServerProcess, reader: Connection) -> object:
    """What a process says; None where it ended without a word."""
    if reader not in connection.wait([reader, process.sentinel]):
        # Whoever it started may hold the pipe open. Where its fork server has died, it may live.
        living = process_of(process.pid) if process.exitcode == FORK_SERVER_GONE else None
        while not reader.poll(POLL_S if living else 0):
            if living is None or not runs(living):
                return None
    try:
        return reader.recv()
    except (EOFError, OSError):  # it was killed before its last word, or in it
        return None


def _answer(writer: Connection, words: Connection, request: bytes) -> None:
    """What the process does: the call, and telling what came of it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_the_caller, daemon=True).start()
    faulthandler.enable(words.fileno(), all_threads=False)
    try:
        function, arguments, named = ForkingPickler.loads(request)
        value = function(*arguments, **named)
        with during(f"the result of {function.__name__} cannot be handed over"):
            reply = ForkingPickler.dumps(Answer(value))
            ForkingPickler.loads(reply)  # here it is told; where it arrives it would be one more unforeseen error
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is told: see `told`
        reply = ForkingPickler.dumps(tell(error))
    writer.send_bytes(reply)


def _end_with_the_caller() -> None:
    """End this process, and what it started, as soon as nobody is left who waits for its answer."""
    caller = multiprocessing.parent_process()
    assert caller is not None
    caller.join()
    kill_tree(os.getpid())
