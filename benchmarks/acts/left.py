"""What lives of the runs of a service: its processes and containers, and whether its place is free."""

import contextlib
import fcntl
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from threading import Event, Thread

import docker
import httpx
import psutil
from docker.models.containers import Container

from benchmarks.containers import containers
from benchmarks.service import ServedCommandLine, state_of

SECONDS = 15
"""From a person's act to the end of the last process of the run."""
QUIET_S = 30
"""Longer than recovery needs: a deleted flow run was taken up again in 12 s."""
OF_SERVICE = ({"server", "start"}, {"worker", "start"}, {"uvicorn"})
"""Words of what `zk0 serve` starts again where it has died."""
LONGEST_S = 60.0
"""So long the end is waited for, where it takes longer than it may."""
PATIENCE_S = 600
"""So long a start may take until a client trains: a busy machine takes minutes for the first container."""
NOTICED_S = 30
"""So long a page may take to tell its server of a button."""


@dataclass
class Ended:
    """What came of an act."""

    act: str
    seconds: float
    """From the moment when Prefect had it until nothing of the run lived."""
    left: list[str]
    """What still lived then."""

    @property
    def in_time(self) -> bool:
        """Whether all has ended soon enough."""
        return not self.left and self.seconds < SECONDS

    def __str__(self) -> str:
        return f"{self.act}: {self.left or 'nothing of the run'} is left after {self.seconds:.1f} s"


class Left:
    """What lives of runs in a service that serves already.

    Args:
        served: the service; what it has now belongs to no run.
        engine: the Docker engine, where runs have containers.
    """

    def __init__(self, served: ServedCommandLine, engine: docker.DockerClient | None = None) -> None:
        self.served = served
        self._engine = engine
        self._before = set(served.processes())

    def of_runs(self) -> list[str]:
        """Everything that lives of runs: flow, fork server, its tracker, clients, containers."""
        found = []
        for process in self.served.processes():
            with contextlib.suppress(psutil.Error):  # it has just ended
                words = process.cmdline()
                if process not in self._before and not any(part <= set(words) for part in OF_SERVICE):
                    found.append(f"{process} {words[:8]}")
        return found + [f"container {container.name} {container.status}" for container in self._containers()]

    def remove_containers(self) -> None:
        """End what is at work there, after the service."""
        self.served.close()
        for container in self._containers():
            container.remove(force=True)

    def _containers(self) -> list[Container]:
        found = [] if self._engine is None else containers(self._engine)
        return [item for item in found if item.labels["zk0.run_dir"].startswith(str(self.served.outputs))]

    def ended(self, act: str, since: float | None = None, left: Callable[[], list[str]] | None = None) -> Ended:
        """Wait until nothing of the runs lives, or for a minute.

        Args:
            act: what was done.
            since: when Prefect had it, by the monotonic clock; now when left out.
            left: what lives of them; all that does when left out.
        """
        left = left or self.of_runs
        since = time.monotonic() if since is None else since
        while (still := left()) and time.monotonic() - since < LONGEST_S:
            time.sleep(0.2)
        ended = Ended(act, time.monotonic() - since, still)
        print(ended, flush=True)
        return ended

    def comes_back(self) -> list[str]:
        """What begins again in half a minute, or looks alive in Prefect after that."""
        time.sleep(QUIET_S)
        found = self.of_runs()
        alive = {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}
        # Prefect learns of a killed flow's task runs late; those are closed half a minute after its end.
        with contextlib.suppress(AssertionError):
            self.served.until(lambda: self.served.post("/task_runs/filter", {"task_runs": alive}) == [], 90)
        shown = [
            f"{kind} {item['name']} {state_of(item)}"
            for kind in ("task_runs", "flow_runs")
            for item in self.served.post(f"/{kind}/filter", {kind: alive})
        ]
        return [*found, *self.of_runs(), *shown]

    def turn_is_free(self) -> bool:
        """Whether nobody has the turn in the folder of the runs."""
        path = self.served.outputs / ".turn"
        if not path.is_file():
            return True
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True


@contextmanager
def noticed(served: ServedCommandLine, flow_run: str) -> Iterator[Callable[[], float]]:
    """Watch over a flow run during an act; gives when, by the monotonic clock, Prefect had something new of it.

    By the time of its new state; of one that was deleted, when that was seen or the act was done, whichever is earlier.
    """
    before = _looks(served, flow_run)
    begun, done, at = time.time(), Event(), [float("inf")]

    def watch() -> None:
        while not done.wait(0.1):
            if _looks(served, flow_run) != before:
                at[0] = time.monotonic()
                return

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    returned = float("inf")

    def moment() -> float:
        states = [datetime.fromisoformat(item["timestamp"]).timestamp() for item in served.states(flow_run)]
        new = [stamp for stamp in states if stamp > begun]
        return time.monotonic() - (time.time() - min(new)) if new else min(at[0], returned)

    try:
        yield moment
        returned = time.monotonic()
        watcher.join(NOTICED_S)
    finally:
        done.set()


def _looks(served: ServedCommandLine, flow_run: str) -> str:
    try:
        return state_of(served.flow_run(flow_run))
    except httpx.HTTPStatusError:
        return "gone"


def under_way(served: ServedCommandLine, run: str, since: float = 0.0, server_round: int = 1) -> float:
    """Come back when a client of it trains; seconds that it took.

    Args:
        served: the service.
        run: its name.
        since: seconds since the epoch; what trained before does not count.
        server_round: in which it trains.
    """
    folder = served.outputs / run / "rounds" / f"{server_round:04d}" / "clients"
    return served.until(
        lambda: any(path.stat().st_mtime > since for path in folder.glob("*/progress.json")), PATIENCE_S
    )


def will(served: ServedCommandLine, run: str) -> str | None:
    """What a person wants of a run that stands still."""
    path = served.outputs / run / "stopped"
    return str(json.loads(path.read_text())["what"]) if path.is_file() else None
