"""The phases of a run: how a kill is aimed at one, and which one it really hit, by what lies in the run directory."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.chaos.inotify import CREATE, MODIFY, MOVED_TO, OPEN, Event

ANY = "any moment"
ROUND = r"rounds/\d+"
COMMIT_FILES = ("global.safetensors", "stats.safetensors", "strategy.json", "metrics.json", "manifest.json")
"""What a commit writes, in this order; the global tensors in round 0 only, as aggregation has written them else."""
COMMIT = tuple(f"commit: {name}" for name in COMMIT_FILES)
PHASES = (
    "starting",
    "preparation",
    "between rounds",
    "sampling",
    "fit",
    "writing an update",
    "aggregation",
    "evaluation",
    *COMMIT,
    "commit: metrics.jsonl",
    "commit: prune",
    "final policy",
)
"""In the order in which a run meets them."""


@dataclass
class Progress:
    """What a run was seen to do."""

    folder: Path
    """The run directory."""
    clients: tuple[str, ...]
    """Names of the clients."""
    num_rounds: int
    """Rounds of the whole run."""
    federated: bool
    """Whether commits write statistics."""
    finished: dict[tuple[int, str, str], set[tuple[int, int]]] = field(default_factory=dict)
    """(round, client, kind) -> identities (inode, time of change) of its results: one, if all is well."""
    committed: int = -1
    """The newest committed round."""
    said: str = ""
    """What the process that advances the run has written to run.log since it took the lock."""
    verified: int = 0
    """How often the round before was opened to be verified since the round's flow began: by the round itself, by
    sampling, and by aggregation."""

    @property
    def current(self) -> int:
        """The round under way."""
        return self.committed + 1

    @property
    def sampled(self) -> bool:
        return re.search(rf"- round {self.current}: (?!\d+ updates)", self.said) is not None

    @property
    def aggregated(self) -> bool:
        return re.search(rf"- round {self.current}: \d+ updates aggregated", self.said) is not None

    @property
    def sampling(self) -> bool:
        """Whether the clients of the round are being sampled."""
        return self.verified >= 2 and not self.sampled

    @property
    def aggregating(self) -> bool:
        """Whether the updates of the round are being aggregated."""
        return self.verified >= 3 and self.sampled and not self.aggregated

    def all_have(self, kind: str) -> bool:
        """Whether every client has finished this in the round under way."""
        return all((self.current, client, kind) in self.finished for client in self.clients)


Aim = Callable[[Event, Progress], bool]


def _temporary(where: str, *stems: str) -> Callable[[Event], bool]:
    pattern = re.compile(rf"{where}/\.({'|'.join(map(re.escape, stems))})\.\d+\.tmp$")
    return lambda event: bool(event.what & CREATE and pattern.match(event.path))


def _aim_at_commit(name: str) -> Aim:
    created = _temporary(ROUND, name)

    def aim(event: Event, run: Progress) -> bool:
        begun = run.current == 0 or run.aggregated
        return created(event) and begun and (name.startswith("global") or run.all_have("evaluate"))

    return aim


_update = _temporary(rf"{ROUND}/clients/[^/]+", "update.safetensors", "train.json")
_aggregated = _temporary(ROUND, "strategy.json", "global.safetensors")
_manifest = re.compile(rf"{ROUND}/manifest\.json$")
AIMS: Mapping[str, tuple[Aim, float]] = {
    "preparation": (lambda event, _: event.path == "rounds/0000/clients/server/init.lock", 4.0),
    "between rounds": (lambda event, _: event.path == "metrics.jsonl" and bool(event.what & MODIFY), 1.5),
    "sampling": (lambda _, run: run.sampling, 0.002),
    "fit": (lambda event, _: event.path.endswith(("/progress.json", "/train.lock")), 1.0),
    "writing an update": (lambda event, _: _update(event), 0.001),
    "aggregation": (
        lambda event, run: run.aggregating or (run.sampled and not run.aggregated and _aggregated(event)),
        0.01,
    ),
    "evaluation": (lambda event, _: event.path.endswith("/evaluate.lock"), 1.5),
    **{phase: (_aim_at_commit(name), 0.0) for phase, name in zip(COMMIT, COMMIT_FILES, strict=True)},
    "commit: metrics.jsonl": (
        lambda event, _: bool(event.what & MOVED_TO and _manifest.match(event.path)),
        0.0,
    ),
    "commit: prune": (lambda event, _: event.path.startswith("rounds/.trash-"), 0.0),
    "final policy": (lambda event, _: event.path == ".final.tmp", 1.5),
}
"""Phase -> how it shows, and the most seconds that a kill waits from there."""


def is_work(event: Event) -> bool:
    """Whether this is the run going on: a client's work handed out, or a file of a round or the policy written."""
    written = event.path == ".final.tmp" or re.match(rf"{ROUND}/\.[^/]+\.tmp$", event.path)
    handed_out = re.match(rf"{ROUND}/clients/[^/]+/[^/]+\.lock$", event.path)
    return bool((written or handed_out) and event.what & (OPEN | CREATE))


def phase_of(run: Progress, doers: set[int]) -> str:
    """Where the run is, by its directory and by what its process wrote to run.log.

    Args:
        run: what was seen of it.
        doers: the processes killed or at work; temporary files of others are older.
    """
    number = run.current
    here = run.folder / "rounds" / f"{number:04d}"
    before = _after_commit(run) or (_before_clients(run) if number else _preparing(run, here))
    if before is not None:
        return before
    if number > 0 and not run.aggregated:
        if run.all_have("train"):
            return "aggregation"
        return "writing an update" if _writes_update(run, here, doers) else "fit"
    return _commit_step(run, here, doers) if run.all_have("evaluate") else "evaluation"


def _preparing(run: Progress, here: Path) -> str | None:
    """The phase of round 0 before its evaluation."""
    if not _exist(here, "clients/server"):
        return "starting"
    wanted = ["clients/server/init.json", *(["stats.safetensors"] if run.federated else [])]
    return None if _exist(here, *wanted) else "preparation"


def _before_clients(run: Progress) -> str | None:
    """The phase of a later round before its clients are known in this attempt."""
    if run.sampled:
        return None
    if run.sampling:
        return "sampling"
    return "between rounds" if run.said else "starting"


def _after_commit(run: Progress) -> str | None:
    """The phase where the newest round's commit is not done with, or no round follows it."""
    if run.committed < 0:
        return None
    text = (run.folder / "metrics.jsonl").read_text() if _exist(run.folder, "metrics.jsonl") else ""
    if f'"server_round": {run.committed},' not in text and f'"server_round": {run.committed}}}' not in text:
        return "commit: metrics.jsonl"
    if list((run.folder / "rounds").glob(".trash-*")):
        return "commit: prune"
    return "final policy" if run.committed == run.num_rounds else None


def _writes_update(run: Progress, here: Path, doers: set[int]) -> bool:
    """Whether a client had written, or begun to write, its update, but not yet said that it is there."""
    for client in run.clients:
        folder = here / "clients" / client
        if (run.current, client, "train") in run.finished or not folder.is_dir():
            continue
        if any(_pid(path) in doers for path in folder.glob(".*.tmp")):
            return True
        update, lock = folder / "update.safetensors", folder / "train.lock"
        if update.exists() and update.stat().st_mtime_ns > lock.stat().st_mtime_ns:
            return True
    return False


def _commit_step(run: Progress, here: Path, doers: set[int]) -> str:
    """The first file of the commit that this attempt had not written in full."""
    evaluated = max((here / "clients" / name / "evaluate.json").stat().st_mtime_ns for name in run.clients)
    begun = max(evaluated, (run.folder / "run.lock").stat().st_mtime_ns)
    writing = {path.name for path in here.glob(".*.tmp") if _pid(path) in doers}
    there_before = {"stats.safetensors"} if run.current == 0 else {"global.safetensors"}
    if not run.federated:
        there_before.add("stats.safetensors")
    for phase, name in zip(COMMIT, COMMIT_FILES, strict=True):
        if name in there_before:
            continue
        if any(entry.startswith(f".{name}.") for entry in writing):
            return phase
        if not (here / name).exists() or (here / name).stat().st_mtime_ns < begun:
            return phase
    return COMMIT[-1]


def _pid(temporary: Path) -> int:
    number = temporary.name.split(".")[-2]
    return int(number) if number.isdigit() else 0


def _exist(folder: Path, *names: str) -> bool:
    return all((folder / name).exists() for name in names)
