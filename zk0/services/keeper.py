"""Keeps programs running: starts again what dies, after pauses, and ends with them whatever they left behind."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from zk0.errors import BadInputError, Zk0Error
from zk0.files import atomic, untrusted
from zk0.files.locks import taken
from zk0.services.left_over import MARK, SPARED, STATUS, end_left_over

LOCK = "start.lock"
LOCK_LOOKS, LOCK_LOOK_S = 10, 0.02
"""Times that the lock is tried again, which one who only looks at it has for an instant; the pause between, in s."""
LOOK_S = 0.5
"""Pause between two looks at the programs."""
LONGEST_PAUSE_S = 60.0
"""A program that dies at once again and again is started no less often."""
STEADY_S = 60.0
"""One that has run for so long has started well: the next pause is the shortest again."""
STOP_S = 15.0
"""What a program has to end in order, before it is killed."""
MOST_LOG_BYTES = 32 * 2**20
"""A log that has grown beyond this becomes `<name>.1`."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Part:
    """One program that is kept running."""

    name: str
    """As it is called in the log."""
    command: Callable[[], Sequence[str]]
    """Gives its command line, at each start. A Zk0Error says why it cannot start now; it is tried again."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What it has besides ours."""
    shortest_pause_s: float = 1.0
    """From its death to its next start."""
    spares_children: bool = False
    """What it started lives on when it dies, to be taken up by the next one; else its whole group ends with it. A
    keeper that is told to end ends all of it."""
    explain: Callable[[str], str | None] = lambda _: None
    """What the end of its output means, for the person who reads the log; None where it says so itself."""


@dataclass
class _State:
    part: Part
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    """By the monotonic clock, in seconds."""
    not_before: float = 0.0
    failures: int = 0
    starts: int = 0
    said: str = ""
    """What was said last of why it does not run."""


class Keeper:
    """All programs of one folder, until a signal ends them."""

    def __init__(self, folder: Path, log: Path, parts: Sequence[Part], say: Say) -> None:
        """Prepare; nothing is started before `run`.

        Args:
            folder: of what they are for; one keeper at a time has it.
            log: their output, and what the keeper says.
            parts: the programs, in the order of their start.
            say: tells the person at the terminal.
        """
        self._folder, self._log, self._say = folder, log, say
        self._states = [_State(part) for part in parts]
        self._stop = threading.Event()

    def run(self, look: Callable[[], Sequence[str]] = lambda: (), ended: Callable[[], None] = lambda: None) -> None:
        """Keep the programs running until SIGTERM or Ctrl-C, then end them, in the reverse order.

        Args:
            look: called now and then; names the programs that are to be started anew.
            ended: called when the programs have been ended, for what they have at work elsewhere.

        Raises:
            BadInputError: another keeper has the folder.
        """
        with only_one(self._folder), self._signals():
            for process in end_left_over(self._folder):
                self.tell(f"ended what an earlier start had left: {process}")
            try:
                while not self._stop.is_set():
                    for name in look():
                        self._restart(name)
                    for state in self._states:
                        self._look(state)
                    trim(self._log)
                    self._stop.wait(LOOK_S)
            finally:
                self._end(ended)

    def process_of(self, name: str) -> int | None:
        """Process id of a program; None while it does not run."""
        found = (state.process for state in self._states if state.part.name == name and state.process is not None)
        return next((process.pid for process in found), None)

    def stop(self) -> None:
        """End the programs soon, from another thread."""
        self._stop.set()

    def tell(self, text: str) -> None:
        """Say something at the terminal and in the log."""
        line = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} zk0: {untrusted.printable(text)}"
        self._say(line)
        with atomic.storage_errors(self._log, "written"), _appended(self._log) as file:
            os.write(file, f"{line}\n".encode())

    def _look(self, state: _State) -> None:
        process, now = state.process, time.monotonic()
        if process is not None and process.poll() is not None:
            self._died(state, process.returncode, now)
        if state.process is None and now >= state.not_before:
            self._start(state, now)
            self._write_status()

    def _start(self, state: _State, now: float) -> None:
        part = state.part
        try:
            command = list(part.command())
        except Zk0Error as error:
            self._not_now(state, str(error), now)
            return
        mark = {SPARED if part.spares_children else MARK: str(self._folder)}
        environment = {**os.environ, **part.environment, **mark}
        with _appended(self._log) as log:
            state.process = subprocess.Popen(
                command,
                env=environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        state.started, state.said, state.starts = now, "", state.starts + 1
        self.tell(f"{part.name} started, process {state.process.pid}")

    def _died(self, state: _State, code: int, now: float) -> None:
        assert state.process is not None
        if not state.part.spares_children:
            end_group(state.process.pid)
        state.failures = 0 if now - state.started > STEADY_S else state.failures + 1
        state.process = None
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        said = state.part.explain(_tail(self._log))
        self._pause(state, now)
        again = f"it is started again in {state.not_before - now:.0f} s"
        self.tell(f"{state.part.name} {how}; {again}" + (f": {said}" if said else ""))
        self._write_status()

    def _not_now(self, state: _State, why: str, now: float) -> None:
        state.failures += 1
        self._pause(state, now)
        if why != state.said:
            state.said = why
            self.tell(f"{state.part.name} is not started, and tried again until it can be: {why}")

    def _pause(self, state: _State, now: float) -> None:
        least = state.part.shortest_pause_s
        state.not_before = now + max(least, min(least * 2 ** max(0, state.failures - 1), LONGEST_PAUSE_S))

    def _restart(self, name: str) -> None:
        for state in self._states:
            if state.part.name == name and state.process is not None:
                self.tell(f"{name} is started anew")
                _end(state)
                state.process, state.not_before = None, time.monotonic() + state.part.shortest_pause_s

    def _write_status(self) -> None:
        parts: dict[str, Any] = {}
        for state in self._states:
            pid = None if state.process is None else state.process.pid
            parts[state.part.name] = {
                "pid": pid,
                "began": None if pid is None else _began(pid),
                "starts": state.starts,
                "waits_for": state.said or None,
            }
        record = {"pid": os.getpid(), "at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "parts": parts}
        atomic.write_json(self._folder / STATUS, record)

    def _end(self, ended: Callable[[], None]) -> None:
        self.tell("ending")
        for state in reversed(self._states):
            if state.process is not None:
                _end(state)
                state.process = None
        ended()
        for process in end_left_over(self._folder, MARK, SPARED):
            self.tell(f"ended: {process}")
        self._write_status()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Take SIGTERM, SIGINT and SIGHUP as the wish to end; where that is another thread's business, not."""
        before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                if signal.getsignal(number) != signal.SIG_IGN:  # nohup
                    before[number] = signal.signal(number, lambda *_: self._stop.set())
        try:
            yield
        finally:
            for taken, handler in before.items():
                signal.signal(taken, handler)


def _began(pid: int) -> float | None:
    """When a process began, which with its id says which one it is; None where it is gone."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def end_group(leader: int) -> None:
    """Kill what is left of a program's process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def running(folder: Path) -> dict[str, Any] | None:
    """What a folder's keeper last said of its programs; None where none runs.

    Raises:
        StorageError: it cannot be read.
    """
    lock = folder / LOCK
    if not atomic.exists(lock):
        return None
    with lock.open("rb") as file:
        if not taken(file.fileno(), shared=True):
            status = folder / STATUS
            found: dict[str, Any] = json.loads(status.read_bytes()) if status.exists() else {}
            return found
    return None


def trim(log: Path) -> None:
    """Put a log aside that has grown too long; those who write it go on, for they append."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > MOST_LOG_BYTES:
            shutil.copyfile(log, log.with_name(f"{log.name}.1"))
            os.truncate(log, 0)


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold a folder against a second keeper.

    Raises:
        BadInputError: there is one.
    """
    with (folder / LOCK).open("a+") as lock:
        if not taken(lock.fileno(), (0, *[LOCK_LOOK_S] * LOCK_LOOKS)):
            lock.seek(0)
            raise BadInputError(
                f"{folder} is started already, by process {lock.read() or 'unknown'}; end that one first"
            )
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _end(state: _State) -> None:
    """SIGTERM to a program, and to all of its group; what is still there after STOP_S is killed."""
    process = state.process
    assert process is not None
    with contextlib.suppress(ProcessLookupError):
        if state.part.spares_children:
            process.terminate()
        else:
            os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    process.kill()
    if not state.part.spares_children:
        end_group(process.pid)
    process.wait()


@contextlib.contextmanager
def _appended(log: Path) -> Iterator[int]:
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _tail(log: Path) -> str:
    return untrusted.tail(log, 16_384).decode(errors="replace")
