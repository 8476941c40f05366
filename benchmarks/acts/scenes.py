"""The acts, one after the other in one session of `zk0 serve`, and what came of each."""

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.acts.hands import Hands
from benchmarks.acts.left import PATIENCE_S, Ended, Left, noticed, under_way, will
from benchmarks.service import ServedCommandLine, state_of
from flows.turn import WAITS_HERE

IN_THE_QUEUE = ("AwaitingConcurrencySlot", "Scheduled", "Late", "Pending")
NOTHING = "nothing"


@dataclass
class Row:
    """A line of the table."""

    act: str
    seconds: float
    """Until nothing of the run lives, or it trains again."""
    work_seconds: float | None
    """Until at most its flow process does."""
    left: list[str]
    """What was left over; empty where nothing was."""
    then: str
    faults: list[str] = field(default_factory=list)
    """What is not as it must be."""

    def __str__(self) -> str:
        work = "" if self.work_seconds is None else f"{self.work_seconds:.1f}"
        return f"| {self.act} | {work} | {self.seconds:.1f} | {'; '.join(self.left) or NOTHING} | {self.then} |"


class Session:
    """A person, and a service whose runs train for as long as nobody ends them.

    Args:
        served: a service that serves.
        hands: the person's.
        config: of the runs.
        left: what lives of them.
    """

    def __init__(self, served: ServedCommandLine, hands: Hands, config: Path, left: Left) -> None:
        self.served, self.hands, self.config, self.left = served, hands, config, left
        self.rows: list[Row] = []

    def start(self, name: str) -> str:
        """Start a run; gives the flow run's id."""
        self.hands.start(name, self.config)
        self.served.until(lambda: self._named(name), PATIENCE_S)
        return self._named(name)[0]

    def cancel(self) -> None:
        flow_run = self.start("anna-s-try")
        under_way(self.served, "anna-s-try")
        self._ends("Cancel while two clients train", flow_run, self.hands.cancel, "anna-s-try", "cancelled")
        self._goes_on("Retry of the cancelled run", flow_run, self.hands.retry, "anna-s-try")
        self._ends("Suspend while two clients train", flow_run, self.hands.suspend, "anna-s-try", "suspended")
        self._goes_on("Resume of the suspended run", flow_run, self.hands.resume, "anna-s-try")
        self._ends("Delete while two clients train", flow_run, self.hands.delete, "anna-s-try", "deleted")
        self._stays_away("deleted")

    def resume_by_hand(self) -> None:
        """`zk0 resume` of the deleted run, as long as it takes; then Ctrl-C, which a terminal sends to all of it."""
        since = time.time()
        resumed = self.served.start("resume", "anna-s-try", "--outputs", self.served.outputs)
        seconds = under_way(self.served, "anna-s-try", since)
        self._add("`zk0 resume` of the deleted run", seconds, [], f"trains after {seconds:.0f} s")
        os.killpg(resumed.pid, signal.SIGINT)
        ended = self.left.ended("Ctrl-C")
        resumed.communicate()
        kept = self._kept("anna-s-try", "interrupted")
        self._add("Ctrl-C in `zk0 resume`", ended, ended.left, kept)

    def in_the_first_moments(self) -> None:
        """While data and policy are checked, before there is a run."""
        for what, act in (("Cancel", self.hands.cancel), ("Delete", self.hands.delete)):
            name = f"too-early-{what.lower()}"
            flow_run = self.start(name)
            self.served.until(lambda: self.served.flow_process() is not None, PATIENCE_S)
            time.sleep(3)
            began = (self.served.outputs / name / "run.json").exists()
            self._ends(f"{what} while data and policy are checked", flow_run, act, None, None)
            left = self.left.comes_back()
            then = "the run had begun" if began else "no run had begun"
            self._add(f"{what} while data and policy are checked, 30 s later", 30, left, then)

    def queue(self) -> None:
        one = self.start("one")
        under_way(self.served, "one")
        two = self.start("two")
        self.served.until(lambda: self._waits(two), PATIENCE_S)
        self._kill_with_a_queue()
        since = time.time()
        with noticed(self.served, one) as at:
            self.hands.cancel(one)
        alone = self.left.ended("Cancel of the first of two starts", at(), lambda: self._of("one"))
        seconds = under_way(self.served, "two", since)
        then = f"{self._kept('one', 'cancelled')}; the other trains after {seconds:.0f} s"
        self._add("Cancel of the first of two starts", alone, alone.left, then)
        three = self.start("three")
        self.served.until(lambda: self._waits(three), PATIENCE_S)
        time.sleep(10)
        with noticed(self.served, three) as at:
            self.hands.cancel(three)
        waited = self.left.ended("Cancel of a start that waits", at(), lambda: self._of("three"))
        begun = ["the run"] if self._begun("three") else []
        self._add("Cancel of a start that waits", waited, waited.left + begun, "it never began")
        self._ends("Cancel of the second of two starts", two, self.hands.cancel, "two", "cancelled")
        self._stays_away("cancelled")

    def _waits(self, flow_run: str) -> bool:
        """In Prefect's queue, or in a process, where Prefect counts wrong after a cancel."""
        found = self.served.flow_run(flow_run)
        return state_of(found) in IN_THE_QUEUE or WAITS_HERE in found["tags"]

    def schedule(self) -> None:
        """A paused schedule, and a service that starts from another folder."""
        started = time.monotonic()
        self.hands.pause_schedule()
        self.served.until(lambda: not self.served.schedules()[0]["active"] and not self.served.upcoming(), PATIENCE_S)
        seconds = time.monotonic() - started
        self.served.stop()
        self.served.folder = self.served.folder / "elsewhere"
        self.served.folder.mkdir(exist_ok=True)
        self.served.serve()
        time.sleep(10)
        left = ["an active schedule"] * bool(self.served.schedules()[0]["active"]) + self.served.upcoming()
        self._add("Pause of the schedule; served again from another folder", seconds, left, "stays paused")

    def _kill_with_a_queue(self) -> None:
        lock = self.served.outputs / "one" / "run.lock"
        before = lock.read_text()
        psutil.Process(json.loads(before)["pid"]).kill()
        seconds = self.served.until(lambda: lock.read_text() not in ("", before), PATIENCE_S)
        since = time.time()
        under_way(self.served, "one", since)
        left = ["the other run began"] if self._begun("two") else []
        self._add(
            "Kill of the first of two starts", seconds, left, f"it is back after {seconds:.0f} s, before the other"
        )

    def _goes_on(self, act: str, flow_run: str, do: Callable[[str], None], run: str) -> None:
        since = time.time()
        do(flow_run)
        seconds = under_way(self.served, run, since)
        left = [f"still {will(self.served, run)}"] if will(self.served, run) else []
        self._add(act, seconds, left, f"trains after {seconds:.0f} s")

    def _ends(self, act: str, flow_run: str, do: Callable[[str], None], run: str | None, wanted: str | None) -> None:
        with noticed(self.served, flow_run) as at:
            do(flow_run)
        ended = self.left.ended(act, at())
        free = [] if self.left.turn_is_free() else ["the turn"]
        then = self._kept(run, wanted) if run and wanted else "-"
        self._add(act, ended, ended.left + free, then)

    def _kept(self, run: str, wanted: str) -> str:
        with suppress(AssertionError):
            self.served.until(lambda: will(self.served, run) == wanted, 10)
        return f"stopped: {will(self.served, run)}"

    def _stays_away(self, what: str) -> None:
        self._add(f"30 s after that ({what})", 30, self.left.comes_back(), "-")

    def _add(self, act: str, took: float | Ended, left: list[str], then: str) -> None:
        seconds, work = (took.seconds, took.work_seconds) if isinstance(took, Ended) else (took, None)
        row = Row(act, seconds, work, left, then, [f"{act}: {item}" for item in left])
        if isinstance(took, Ended) and not took.in_time:
            row.faults.append(f"{act}: took {seconds:.1f} s")
        self.rows.append(row)
        print(row, flush=True)

    def _begun(self, name: str) -> bool:
        return (self.served.outputs / name / "run.json").exists()

    def _named(self, name: str) -> list[str]:
        return [item["id"] for item in self.served.flow_runs() if item["name"] == name]

    def _of(self, run: str) -> list[str]:
        """What lives of one of several runs: the processes that its locks name, and its containers."""
        folder = self.served.outputs / run
        found = [item for item in self.left.of_runs() if f"container zk0-{run}-" in item]
        for process in self.served.processes():
            with suppress(psutil.Error):
                found += [f"{process} with {file.path}" for file in process.open_files() if _is_lock(file.path, folder)]
        return found


def _is_lock(path: str, folder: Path) -> bool:
    return path.endswith(".lock") and Path(path).is_relative_to(folder)
