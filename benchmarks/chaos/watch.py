"""Watches one run directory, keeps what was seen, and kills the moment that an aim is met."""

import random
import re
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.chaos import victims
from benchmarks.chaos.inotify import CREATE, MODIFY, MOVED_TO, OPEN, Event, Tree
from benchmarks.chaos.phases import AIMS, ANY, Progress, is_work, phase_of
from benchmarks.chaos.victims import CLIENT, EVERYTHING, FLOW

_RESULT = re.compile(r"rounds/(\d+)/clients/([^/]+)/(train|evaluate|init|statistics)\.json$")
_MANIFEST = re.compile(r"rounds/(\d+)/manifest\.json$")
_BEGUN = "Beginning subflow run"


@dataclass(frozen=True)
class Shot:
    """A kill that is planned."""

    victim: str
    phase: str
    """The phase that it is aimed at, or ANY."""
    not_before_round: int
    pause_s: float
    """Seconds from when the phase shows (with ANY: from now) to the kill."""


@dataclass
class Kill:
    """A kill that was done."""

    shot: Shot
    at: float
    """Of the monotonic clock, in seconds."""
    pids: set[int]
    phase: str
    """The phase that it hit, from evidence."""
    server_round: int
    left: list[str] = field(default_factory=list)
    """Temporary files of the killed that it left: files half written."""


class Watch(threading.Thread):
    """The watching thread of one run."""

    def __init__(self, run: Progress, table: victims.Table) -> None:
        super().__init__(daemon=True)
        self.run_seen = run
        self.last_work = 0.0
        """When the run was last seen to go on after its lock was taken, by the monotonic clock."""
        self.locked_at = 0.0
        """When a process took the run's lock last."""
        self.touched: dict[str, float] = {}
        """Client lock -> when it was last written."""
        self.fault: BaseException | None = None
        self._table = table
        self._tree = Tree(run.folder.parent, run.folder.name)
        self._shot: Shot | None = None
        self._fire_at = 0.0
        self._killed: Kill | None = None
        self._log_start = self._log_end = 0
        self._stop_asked = threading.Event()

    def arm(self, shot: Shot) -> None:
        """Kill when the shot's aim is met; `take_kill` tells."""
        self._fire_at = time.monotonic() + shot.pause_s
        self._killed, self._shot = None, shot

    def disarm(self) -> None:
        self._shot = None

    def take_kill(self) -> Kill | None:
        """The kill of the armed shot, once it is done."""
        return self._killed

    def stop(self) -> None:
        self._stop_asked.set()
        self.join()
        self._tree.close()

    def run(self) -> None:
        try:
            while not self._stop_asked.is_set():
                for event in self._tree.read(0.05):
                    self._note(event)
                    self._aim(event)
                self._aim(None)
        except BaseException as error:
            self.fault = error
            raise

    # -- seeing -----------------------------------------------------------------------------------------------------

    def _note(self, event: Event) -> None:
        run, now = self.run_seen, time.monotonic()
        if event.path == "run.lock" and event.what & MODIFY:
            self.locked_at, self._log_start, run.said, run.verified = now, self._log_end, "", 0
        elif event.path == "run.log":
            if event.what & MODIFY:  # reading it is an event too
                self._read_log()
        elif is_work(event) and self.locked_at:
            self.last_work = now
        if event.path.endswith(".lock") and event.what & MODIFY:
            self.touched[event.path] = now
        if (found := _RESULT.match(event.path)) and event.what & (MOVED_TO | CREATE):
            self._note_result((int(found[1]), found[2], found[3]), event.path)
        if found := _MANIFEST.match(event.path):
            if event.what & (MOVED_TO | CREATE):
                run.committed = max(run.committed, int(found[1]))
            elif event.what & OPEN and int(found[1]) == run.current - 1:
                run.verified += 1

    def _note_result(self, what: tuple[int, str, str], path: str) -> None:
        try:
            status = (self.run_seen.folder / path).stat()
        except FileNotFoundError:
            return  # pruned meanwhile
        self.run_seen.finished.setdefault(what, set()).add((status.st_ino, status.st_mtime_ns))

    def _read_log(self) -> None:
        with (self.run_seen.folder / "run.log").open("rb") as log:
            log.seek(self._log_start)
            content = log.read()
        self._log_end = self._log_start + len(content)
        said = content.decode(errors="replace")
        if said.count(_BEGUN) > self.run_seen.said.count(_BEGUN):
            self.run_seen.verified = 0
        self.run_seen.said = said

    # -- killing ----------------------------------------------------------------------------------------------------

    def _aim(self, event: Event | None) -> None:
        shot, run = self._shot, self.run_seen
        if shot is None:
            return
        if shot.phase == ANY:
            if time.monotonic() < self._fire_at:
                return
        elif event is None or run.current < shot.not_before_round or not AIMS[shot.phase][0](event, run):
            return
        else:
            _pause(shot.pause_s)
        pids = self._targets(shot.victim, event)
        killed = victims.kill_all(self._table) if pids and shot.victim == EVERYTHING else victims.kill(pids)
        if killed:
            self._shot = None
            self._killed = self._evidence(shot, killed, time.monotonic())

    def _targets(self, victim: str, event: Event | None) -> set[int]:
        """Who is to die; nobody where the victim is not there now."""
        run = self.run_seen
        owner = _locked_by(run.folder / "run.lock")
        flow = {owner} if owner and victims.is_alive(owner) else self._table.pids(FLOW)
        if victim == FLOW:
            return flow
        if victim == EVERYTHING:
            return flow | self._table.pids(EVERYTHING)
        if victim == CLIENT:
            folder = run.folder / event.path.rpartition("/")[0] if event else None
            locks = list(folder.glob("*.lock")) if folder else list(run.folder.glob("rounds/*/clients/*/*.lock"))
            holders = {pid for lock in locks if (pid := _locked_by(lock)) and victims.is_alive(pid)} - flow
            return set(random.Random(len(run.finished)).sample(sorted(holders), min(1, len(holders))))
        return {pid for pid in self._table.pids(victim) if victims.is_alive(pid)}

    def _evidence(self, shot: Shot, killed: set[int], at: float) -> Kill:
        run = self.run_seen
        if shot.victim in (FLOW, CLIENT, EVERYTHING):
            victims.wait_dead(killed)
        for event in self._tree.read(0):
            self._note(event)
        at_work = {pid for lock in run.folder.glob("rounds/*/clients/*/*.lock") if (pid := _locked_by(lock))}
        owner = _locked_by(run.folder / "run.lock")
        doers = killed | {pid for pid in at_work if victims.is_alive(pid)} | ({owner} if owner else set())
        left = [path for path in run.folder.rglob(".*.tmp") if path.name.split(".")[-2] in set(map(str, killed))]
        names = [path.relative_to(run.folder).as_posix() for path in left]
        return Kill(shot, at, killed, phase_of(run, doers), max(0, min(run.current, run.num_rounds)), names)


def _pause(seconds: float) -> None:
    """Sleep, more exactly than the system does for very short times."""
    end = time.perf_counter() + seconds
    if seconds > 0.005:
        time.sleep(seconds - 0.002)
    while time.perf_counter() < end:
        continue


def _locked_by(lock: Path) -> int | None:
    """The process that a lock file names, alive or not."""
    try:
        text = lock.read_text()
    except FileNotFoundError:
        return None
    found = re.search(r'"pid": (\d+)', text) or re.fullmatch(r"(\d+)", text)
    return int(found[1]) if found else None
