"""Runs under fire: a `zk0 serve` that is brought back as systemd would, runs on it, and the kills of each."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.chaos import checks
from benchmarks.chaos.phases import Progress
from benchmarks.chaos.plan import shots
from benchmarks.chaos.victims import CLIENT, EVERYTHING, FLOW, FORKSERVER, SERVE, SERVER, WORKER, Table
from benchmarks.chaos.watch import Kill, Shot, Watch
from benchmarks.service import CLIENTS, TLS, CommandLine, ServedCommandLine
from zk0.runs.store import RunStore, is_finished

RESTART_S = 5.0
"""RestartSec of deployments/zk0.service."""
BACK_S = 300.0
"""A run that does not go on so long after a kill is lost."""
END_S = 420.0
"""A run that does not end so long after its last kill is lost."""
CONFIGS: dict[str, dict[str, Any]] = {
    "two rounds, FedAvg": {"training__steps": 3, "checkpoint__every_steps": 2},
    "three rounds, FedProx": {
        "training__steps": 3,
        "checkpoint__every_steps": 2,
        "checkpoint__keep": 2,
        "federation__num_rounds": 3,
        "federation__strategy": "fedprox",
        "federation__proximal_mu": 0.01,
        "data__normalization": "federated",
        "seed": 8,
    },
}
DEPLOYMENT, TAKEN_OVER, AGAIN = WAYS = (
    "deployment",
    "zk0 run, taken over by zk0 serve",
    "zk0 run, the same command again",
)


class Lost(Exception):  # noqa: N818 - it is what happened to a run
    """A run did not go on, or not end."""


@dataclass
class Line:
    """A kill as it is written down."""

    run: str
    victim: str
    aimed_at: str
    phase: str
    server_round: int
    half_written: list[str]
    back_s: float | None = None
    """Seconds until what was killed was there again; None where the next kill came first."""


@dataclass
class RunUnderFire:
    """One run: how it was started, and what happened to it."""

    name: str
    config: str
    way: str
    path: Path
    """The config file."""
    watch: Watch
    lines: list[Line] = field(default_factory=list)
    flow_run: str | None = None
    command: subprocess.Popen[str] | None = None


class Campaign:
    """A `zk0 serve` and the runs on it."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.service = ServedCommandLine(folder)
        self.table = Table(self.service.environment["PREFECT_HOME"])
        self._say = say
        self._gone_at: float | None = None
        self._waiting: list[tuple[Line, Kill, Callable[[], bool]]] = []
        self._wanted: dict[str, dict[str, Any]] = {}

    def start(self) -> None:
        self.service.serve(self.service.config())
        self.service.outputs.mkdir(exist_ok=True)

    def close(self) -> None:
        self.service.close()

    def undisturbed(self, config: str) -> dict[str, Any]:
        """What a run of this config comes to when nothing is killed."""
        if config not in self._wanted:
            apart = CommandLine(self.service.folder / "undisturbed", self.service.environment)
            apart.folder.mkdir(exist_ok=True)
            name = f"undisturbed-{len(self._wanted)}"
            apart.run("run", apart.config(**CONFIGS[config]), "--name", name)
            self._wanted[config] = checks.outcome(apart.outputs / name)
        return self._wanted[config]

    def run(self, name: str, config: str, way: str, cards: list[tuple[str, str]], seed: int) -> Iterator[Line]:
        """Start a run and kill; gives each kill when it is done, and ends when the run has ended.

        Args:
            name: of the run.
            config: a key of CONFIGS.
            way: one of WAYS.
            cards: victim and phase of each kill; those that the run ends before are not done.
            seed: of rounds and pauses.

        Raises:
            Lost: the run did not go on or not end.
        """
        run = self._begin(name, config, way)
        try:
            for shot in shots(cards, run.watch.run_seen.num_rounds, seed):
                killed = self._shoot(run, shot)
                if killed is None:
                    break
                line = Line(name, shot.victim, shot.phase, killed.phase, killed.server_round, killed.left)
                run.lines.append(line)
                self._expect_back(run, line, killed)
                if shot.victim in (FLOW, EVERYTHING):
                    self._until(run, lambda: not self._waiting or self._ended(run), BACK_S, "go on")
                yield line
            self._until(run, lambda: self._ended(run), END_S, "end")
            self._until(run, self._whole, BACK_S, "have its service back")
            self._supervise(run)  # what came back in the last moment
            self.problems = checks.problems(run.watch.run_seen, self.undisturbed(config), self.service, self.table)
        finally:
            self._waiting.clear()
            run.watch.stop()

    # -- starting ---------------------------------------------------------------------------------------------------

    def _begin(self, name: str, config: str, way: str) -> RunUnderFire:
        path = self.service.config(**CONFIGS[config])
        rounds = CONFIGS[config].get("federation__num_rounds", 2)
        federated = CONFIGS[config].get("data__normalization") == "federated"
        seen = Progress(self.service.outputs / name, CLIENTS, rounds, federated)
        run = RunUnderFire(name, config, way, path, Watch(seen, self.table))
        run.watch.start()
        self._until(run, self._serving, BACK_S, "begin: the server does not answer")
        if way == DEPLOYMENT:
            self._until(run, lambda: self._start_flow_run(run), BACK_S, "begin: the server takes no flow run")
        else:
            self._start_command(run)
        return run

    def _start_flow_run(self, run: RunUnderFire) -> bool:
        """Do what `prefect deployment run` does; a server that was just killed may answer that it is too busy."""
        # `nightly` of itself starts from the newest run's weights.
        parameters: dict[str, Any] = {"config": str(run.path), "overrides": [], "continue_from": None}
        body = {"name": run.name, "parameters": parameters, "idempotency_key": run.name}
        try:
            made = self.service.post(f"/deployments/{self.service.nightly()}/create_flow_run", body)
        except httpx.HTTPError:
            return False
        run.flow_run = str(made["id"])
        return True

    def _start_command(self, run: RunUnderFire) -> None:
        with (self.service.folder / f"{run.name}.log").open("a") as output:
            command = [sys.executable, "-m", "zk0.cli", "run", str(run.path), "--name", run.name]
            run.command = subprocess.Popen(
                command,
                cwd=self.service.folder,
                env=self.service.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                text=True,
                start_new_session=True,
            )

    # -- killing ----------------------------------------------------------------------------------------------------

    def _shoot(self, run: RunUnderFire, shot: Shot) -> Kill | None:
        """Arm, and wait for the kill; None where the run ended before."""
        run.watch.arm(shot)
        self._until(run, lambda: run.watch.take_kill() is not None or self._ended(run), BACK_S + END_S, "be hit")
        run.watch.disarm()
        return run.watch.take_kill()

    def _expect_back(self, run: RunUnderFire, line: Line, killed: Kill) -> None:
        """Note when what was killed is there again; a kill of all overtakes what was waited for."""
        watch, part = run.watch, killed.shot.victim
        if part in (FLOW, EVERYTHING):
            self._waiting.clear()
        locks, seen = dict(watch.touched), watch.run_seen

        def trained() -> bool:
            """Whether only the export is left, which writes its first file at its end."""
            return seen.committed == seen.num_rounds

        signs: dict[str, Callable[[], bool]] = {
            FLOW: lambda: watch.locked_at > killed.at and (watch.last_work > watch.locked_at or trained()),
            CLIENT: lambda: any(at > killed.at for lock, at in watch.touched.items() if locks.get(lock) != at),
            SERVER: self._serving,
            FORKSERVER: lambda: bool(self.table.pids(FORKSERVER) - killed.pids),
            WORKER: lambda: bool(self.table.pids(WORKER) - killed.pids),
            SERVE: lambda: bool(self.table.pids(SERVE) - killed.pids),
        }
        self._waiting.append((line, killed, signs[FLOW if part == EVERYTHING else part]))

    # -- waiting ----------------------------------------------------------------------------------------------------

    def _until(self, run: RunUnderFire, condition: Callable[[], bool], limit_s: float, what: str) -> None:
        deadline = time.monotonic() + limit_s
        while not condition():
            self._supervise(run)
            if run.watch.fault is not None:
                raise run.watch.fault
            if time.monotonic() > deadline:
                raise Lost(f"{run.name} did not {what} in {limit_s:.0f} s")
            time.sleep(0.25)

    def _supervise(self, run: RunUnderFire) -> None:
        """Do what systemd does, and the person who repeats a command; note what is back."""
        self.table.look()
        process = self.service.process
        if process is None or process.poll() is not None:
            self._gone_at = self._gone_at or time.monotonic()
            if time.monotonic() - self._gone_at >= RESTART_S:
                self._gone_at = None
                self.service.launch(self.service.config())
        if run.way == AGAIN and run.command is not None and (code := run.command.poll()) not in (None, 0, 2):
            self._say(f"  {run.name}: exit code {code}, the same command again")
            self._start_command(run)
        for waiting in list(self._waiting):
            line, killed, back = waiting
            if back():
                line.back_s = round(time.monotonic() - killed.at, 1)
                self._waiting.remove(waiting)

    def _whole(self) -> bool:
        """Whether server, worker and `zk0 serve` are there."""
        return self._serving() and all(self.table.pids(part) for part in (SERVE, SERVER, WORKER))

    def _serving(self) -> bool:
        try:
            answer = httpx.get(f"{self.service.api}/health", timeout=1, trust_env=False, verify=TLS)
        except httpx.HTTPError:
            return False
        return answer.is_success and self.service.nightly() is not None

    def _ended(self, run: RunUnderFire) -> bool:
        """Whether the run is finished, nobody holds it, and Prefect has the flow run that ended it as completed."""
        folder = run.watch.run_seen.folder
        if not (folder / "final").is_dir() or not (folder / "run.json").is_file():
            return False
        store = RunStore.open(folder)
        if not is_finished(store) or store.holder() is not None:
            return False
        try:
            states = self._states(run)
        except httpx.HTTPError:
            return False
        return "COMPLETED" in states and not set(states) & set(checks.LIVE)

    def _states(self, run: RunUnderFire) -> list[str]:
        """Types of the states of this run's flow runs in Prefect."""
        tagged = self.service.post("/flow_runs/filter", {"flow_runs": {"tags": {"all_": [f"run:{run.name}"]}}})
        parents = [item for item in tagged if item["parent_task_run_id"] is None]
        states = {item["id"]: item["state_type"] for item in parents}
        if run.flow_run is not None:
            states[run.flow_run] = self.service.flow_run(run.flow_run)["state"]["type"]
        return list(states.values())


def story(campaign: Campaign, name: str) -> str:
    """The last words of a lost run and of its service."""
    log = campaign.service.outputs / name / "run.log"
    said = log.read_text()[-3000:] if log.is_file() else "no run.log"
    processes = json.dumps([[item.pid, item.part, item.parent] for item in campaign.table.processes])
    return f"{said}\n{campaign.service.story()}\nprocesses: {processes}"
