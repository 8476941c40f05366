"""Whom to kill: the processes of a `zk0 serve` and its runs, by their part in it."""

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

FLOW, CLIENT, FORKSERVER, SERVER, WORKER, SERVE, EVERYTHING = VICTIMS = (
    "flow process",
    "client process",
    "fork server",
    "Prefect server",
    "Prefect worker",
    "zk0 serve",
    "everything",
)


@dataclass(frozen=True)
class Process:
    """A live process of ours."""

    pid: int
    parent: int
    words: tuple[str, ...]
    """Its command line."""

    @property
    def part(self) -> str | None:
        """Its part, where the command line alone tells."""
        words = set(self.words)
        if "prefect.engine" in words or ("zk0.cli" in words and words & {"run", "resume"}):
            return FLOW
        if {"zk0.cli", "serve"} <= words:
            return SERVE
        if {"worker", "start"} <= words:
            return WORKER
        return SERVER if {"server", "start"} <= words or any("uvicorn" in word for word in words) else None

    @property
    def forked(self) -> bool:
        """Whether it is a fork server or one of its children."""
        return any("multiprocessing.forkserver" in word for word in self.words)


class Table:
    """The processes under one Prefect home, as of the last look."""

    def __init__(self, home: str) -> None:
        self._marker = f"PREFECT_HOME={home}".encode()
        self.processes: list[Process] = []

    def look(self) -> None:
        """Read the system's processes anew (about ten milliseconds)."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    if self._marker in (entry / "environ").read_bytes().split(b"\0"):
                        words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                        found.append(Process(int(entry.name), _parent(entry), tuple(words)))
        self.processes = found

    def pids(self, part: str) -> set[int]:
        """The processes that play a part; a worker that a fork server made is a client process."""
        if part == EVERYTHING:
            return {process.pid for process in self.processes}
        if part in (CLIENT, FORKSERVER):
            flows = {process.pid for process in self.processes if process.part == FLOW}
            forked = [process for process in self.processes if process.forked]
            return {process.pid for process in forked if (process.parent in flows) == (part == FORKSERVER)}
        return {process.pid for process in self.processes if process.part == part}


def kill(pids: set[int]) -> set[int]:
    """SIGKILL; gives those that were there."""
    killed = set()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
    return killed


def kill_all(table: Table) -> set[int]:
    """SIGKILL to everything of ours, until nothing is left that could start something."""
    killed = kill(table.pids(EVERYTHING))
    for _ in range(20):
        table.look()
        left = {pid for pid in table.pids(EVERYTHING) if is_alive(pid)}
        if not left:
            break
        killed |= kill(left)
        time.sleep(0.02)
    return killed


def is_alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def wait_dead(pids: set[int], timeout_s: float = 5.0) -> None:
    """Come back when they are gone: until then they may still write."""
    deadline = time.monotonic() + timeout_s
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, f"still alive after SIGKILL: {pids}"
        time.sleep(0.0005)


def _parent(entry: Path) -> int:
    return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
