"""Commands under fire: what is done with runs and recordings beside a run, killed and given again until it is done."""

import contextlib
import hashlib
import random
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.chaos.campaign import Line
from benchmarks.chaos.victims import CLIENT, EVERYTHING, FLOW, FORKSERVER, SERVER, Table, is_alive, kill, wait_dead
from benchmarks.service import CommandLine
from zk0.config.paths import resolve_path

COMMAND = "a command, given again"
ORPHAN_S = 10.0
"""What a killed command leaves may live so long; a fit or an evaluation goes on and is adopted."""
TRIES = 6
"""A command that does not end in so many, of which one is killed, is lost."""
MOMENTS, EARLY = (0.02, 0.9), 0.3
"""When it is killed, as a share of the time that it takes."""
TOO_QUICK = "was too quick to be killed"
VICTIMS = (FLOW, FLOW, FORKSERVER, CLIENT, EVERYTHING)
OFF = "stats/action/mean"
COMPARE, EXPORT, FIX, CONTINUE = KINDS = (
    "zk0 compare",
    "zk0 export",
    "zk0 check-data --fix-to",
    "zk0 run with continue_from",
)


@dataclass(frozen=True)
class Kind:
    """A command, and what comes of it."""

    arguments: Callable[[str], list[str | Path]]
    """By the name of what it makes."""
    digest: Callable[[str], str]
    """Of what it made; times aside."""


class Commands:
    """Gives commands in a folder of runs, and kills them.

    Args:
        folder: a folder of its own.
        environment: of its processes, by which they are told from others.
        say: told what happens.
    """

    def __init__(self, folder: Path, environment: dict[str, str], say: Callable[[str], None]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._line = CommandLine(folder, environment)
        self._table = Table(environment["PREFECT_HOME"])
        self._say = say
        self._wanted: dict[str, tuple[str, float]] = {}
        self._kinds = {
            COMPARE: Kind(lambda name: ["compare", name], self._compared),
            EXPORT: Kind(lambda name: ["export", "finished", "--out", self._line.folder / name], self._exported),
            FIX: Kind(
                lambda name: ["check-data", self._recordings(), "--fix-to", self._line.folder / name], self._fixed
            ),
            CONTINUE: Kind(lambda name: ["run", self._following(), "--name", name], self._trained),
        }

    def undisturbed(self, kind: str) -> tuple[str, float]:
        """What comes of a command that nobody kills, and the seconds that it takes."""
        if kind not in self._wanted:
            if not (self._line.outputs / "finished").exists():
                self._line.run("run", self._line.config(), "--name", "finished")
            name = self._prepared(kind, f"undisturbed-{KINDS.index(kind)}")
            started = time.monotonic()
            self._line.run(*self._kinds[kind].arguments(name))
            self._wanted[kind] = (self._kinds[kind].digest(name), time.monotonic() - started)
        return self._wanted[kind]

    def attack(self, kinds: list[str], seed: int) -> Iterator[dict[str, Any]]:
        """Kill a command of each kind, once; gives the records."""
        for number, kind in enumerate(kinds):
            rng = random.Random(f"{seed}-{number}-{kind}")
            started = time.monotonic()
            name = f"{kind.split()[-1].strip('-')}-{seed}-{number:03d}"
            wanted, _ = self.undisturbed(kind)
            line, problems = self._one(kind, name, rng.choice(VICTIMS), rng.uniform(*MOMENTS))
            if problems == [TOO_QUICK]:  # such a part was there no more: its first process is, for some time
                line, problems = self._one(kind, f"{name}-again", FLOW, EARLY)
            self._say(f"  killed {line.victim} of {kind}: {'; '.join(problems) or 'as undisturbed'}")
            seconds = round(time.monotonic() - started)
            yield {
                "run": name, "config": kind, "way": COMMAND, "seconds": seconds, "digest": wanted, "wrong": problems,
                "kills": [vars(line)],
            }  # fmt: skip

    def _one(self, kind: str, name: str, victim: str, share: float) -> tuple[Line, list[str]]:
        wanted, seconds = self.undisturbed(kind)
        name = self._prepared(kind, name)
        killed, problems = False, list[str]()
        for _ in range(TRIES):
            process = self._line.start(*self._kinds[kind].arguments(name))
            if not killed:
                killed = self._kill(process, victim, share * seconds)
                if killed and victim in (FLOW, EVERYTHING):  # without another part, the command goes on
                    problems += self._left(f"{ORPHAN_S:.0f} s after the kill", but_workers=True)
            said = process.communicate()[0]
            if process.returncode == 0 or (process.returncode == 2 and "exists" in said):
                break
        else:
            problems.append(f"did not end: {said[-1000:]}")
        if not killed:
            problems.append(TOO_QUICK)
        if not problems and (found := self._kinds[kind].digest(name)) != wanted:
            problems.append(f"{found} instead of {wanted}")
        problems += self._left(f"{ORPHAN_S:.0f} s after the end", but_workers=False)
        return Line(name, victim, kind, kind, 0, []), problems

    def _kill(self, process: "subprocess.Popen[str]", victim: str, after_s: float) -> bool:
        """Kill a part of a command after so many seconds, as soon as there is such a part; gives whether it was."""
        started = time.monotonic()
        while process.poll() is None:
            if time.monotonic() - started >= after_s:
                self._table.look()
                pids = {process.pid} if victim == FLOW else self._pids(process, victim)
                if pids:
                    wait_dead(kill(pids))
                    return True
            time.sleep(0.05)
        return False

    def _pids(self, process: "subprocess.Popen[str]", victim: str) -> set[int]:
        if victim == EVERYTHING:
            return self._table.pids(EVERYTHING) | {process.pid}
        forked = [item for item in self._table.processes if item.forked]
        servers = {item.pid for item in forked if item.parent == process.pid}
        return servers if victim == FORKSERVER else {item.pid for item in forked if item.parent in servers}

    def _left(self, when: str, *, but_workers: bool) -> list[str]:
        """Processes of ours that live still; Prefect's server stays for its pages."""
        deadline = time.monotonic() + ORPHAN_S
        while True:
            self._table.look()
            kept = self._table.pids(SERVER) | (self._at_work() if but_workers else set())
            left = [item for item in self._table.processes if item.pid not in kept and is_alive(item.pid)]
            if not left:
                return []
            if time.monotonic() > deadline:
                return [f"{when} there lives {' '.join(item.words)[-120:]}" for item in left]
            time.sleep(0.25)

    def _at_work(self) -> set[int]:
        """Workers that go on with a fit or an evaluation, and what they started."""
        locks = self._line.outputs.glob("*/**/clients/*/*.lock")
        texts = [lock.read_text() for lock in locks]
        pids = {int(text) for text in texts if re.fullmatch(r"\d+", text)}
        return pids | {item.pid for item in self._table.processes if item.parent in pids}

    # -- what there is, and what comes of it ------------------------------------------------------------------------

    def _prepared(self, kind: str, name: str) -> str:
        if kind == COMPARE:
            shutil.copytree(self._line.outputs / "finished", self._line.outputs / name)
        return name

    def _following(self) -> Path:
        return self._line.config(continue_from="finished")

    def _recordings(self) -> Path:
        """A config of which one client's episodes have not the statistics of their rows."""
        stale = self._line.folder / "stale"
        if not stale.exists():
            shutil.copytree(resolve_path("asset:datasets/kitchen"), stale)
            for path in (stale / "meta" / "episodes").rglob("*.parquet"):
                episodes = pq.read_table(path)
                place = episodes.column_names.index(OFF)
                off = [[value + 1.0 for value in values] for values in episodes[OFF].to_pylist()]
                pq.write_table(
                    episodes.set_column(place, episodes.field(place), pa.array(off, episodes.field(place).type)), path
                )
        clients = [{"name": "kitchen", "repo_id": "zk0/kitchen", "root": str(stale)}]
        return self._line.config(clients=clients, federation__min_train_clients=1)

    def _compared(self, name: str) -> str:
        folder = self._line.outputs / name / "compare"
        arms = sorted(folder.rglob("global.safetensors"))
        assert arms, f"nothing was compared in {folder}"
        return _digest(arms)

    def _exported(self, name: str) -> str:
        return _digest(sorted((self._line.folder / name).glob("*.safetensors")))

    def _fixed(self, name: str) -> str:
        folder = self._line.folder / name / "kitchen"
        return _digest(
            [folder / "meta" / "stats.json", *sorted(folder.rglob("*.parquet")), *sorted(folder.rglob("*.mp4"))]
        )

    def _trained(self, name: str) -> str:
        return self._line.digest(name, 2)


def _digest(files: list[Path]) -> str:
    hasher = hashlib.sha256()
    for file in files:
        hasher.update(file.name.encode() + b"\0" + file.read_bytes())
    return hasher.hexdigest()


def deck(seed: int, kills: int) -> list[str]:
    """Which commands are killed, in a random order; each once before any comes again."""
    rng, cards = random.Random(seed), list[str]()
    while len(cards) < kills:
        cards += rng.sample(KINDS, len(KINDS))
    return cards[:kills]


def close(environment: dict[str, str]) -> None:
    """End what is left."""
    table = Table(environment["PREFECT_HOME"])
    table.look()
    with contextlib.suppress(AssertionError):
        wait_dead(kill(table.pids(EVERYTHING)))
