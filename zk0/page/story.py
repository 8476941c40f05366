"""What befell a run: the lives of its processes, and every decision, read from the run directory alone."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from zk0.files.atomic import is_folder, is_there, listed, read_json
from zk0.layout import FINAL, MANIFEST, ROUNDS_FOLDER, client_folder, result_file, round_folder
from zk0.memory import client_limits
from zk0.memory.sampler import ENDED
from zk0.memory.samples import read_samples
from zk0.metrics.values import Json, mapping, mappings
from zk0.metrics.values import number as number_of
from zk0.runs import will
from zk0.runs.store import RunStore
from zk0.work import attempts, quarantine
from zk0.work.records import TaskKind

RUN = "run"
"""Who the process is that advances a run, beside the clients."""
Kind = Literal[
    "began",
    "killed",
    "ended",
    "went on",
    "failed",
    "retried",
    "refused",
    "left out",
    "smaller batch",
    "quarantined",
    "scaled",
    "adaptive",
    "damaged",
    "stopped",
    "finished",
]
BAD: frozenset[Kind] = frozenset(("killed", "failed", "refused", "left out", "quarantined", "damaged"))
"""What went wrong."""
LATER_S = 1.0
"""A note of memory has no fractions of a second: so much after, it stands below the failure that it is about."""


@dataclass(frozen=True)
class Phase:
    """What a process was at, from one moment to another."""

    name: str
    began: float
    """Unix time, in seconds."""
    ended: float
    """The same."""


@dataclass(frozen=True)
class Life:
    """A process, as far as it has told of itself."""

    pid: int
    phases: tuple[Phase, ...]
    clean: bool
    """It ended by itself; false where it was killed, or lives."""

    @property
    def began(self) -> float:
        """Unix time of its first sample, in seconds."""
        return self.phases[0].began

    @property
    def ended(self) -> float:
        """Of its last."""
        return self.phases[-1].ended


@dataclass(frozen=True)
class Event:
    """Something that happened, or was decided."""

    kind: Kind
    who: str
    """RUN or a client."""
    text: str
    at: float | None = None
    """Unix time, in seconds; None where only the round is known."""
    server_round: int | None = None


@dataclass(frozen=True)
class Story:
    """All of it."""

    lives: Mapping[str, Sequence[Life]]
    """RUN, a client or an environment -> its processes, oldest first; of rounds that are pruned only RUN's."""
    events: Sequence[Event]
    """Oldest first."""
    committed: Mapping[int, float]
    """Round -> when it was committed, in Unix time, as far as that is known."""
    kept: Sequence[int]
    """Rounds whose folders are there, oldest first."""


def read_story(store: RunStore, rounds: Sequence[Json], *, running: bool) -> Story:
    """Read what befell a run.

    Args:
        store: the run.
        rounds: lines of metrics.jsonl.
        running: whether somebody advances it now.

    Raises:
        StorageError: a file cannot be read now.
    """
    own = lives(read_samples(store.folder))
    committed = {
        int(line["server_round"]): at for line in rounds if (at := _committed_at(store.folder, line)) is not None
    }
    kept = sorted(int(path.name) for path in listed(store.folder / ROUNDS_FOLDER) if path.name.isdigit())
    by_client = {name: _lives_of(store, name, kept) for name in _names(store)}
    events = [*_of_the_run(store, own, committed, running=running), *_of_clients(store, rounds, kept)]
    return Story({RUN: own, **by_client}, sorted(events, key=lambda event: _place(event, committed)), committed, kept)


def lives(samples: Sequence[Mapping[str, Any]]) -> list[Life]:
    """Samples of one folder, oldest first, as the processes that took them.

    A phase is closed by a sample of its own, so that the next one begins there.
    """
    found: list[Life] = []
    phases: list[Phase] = []
    last: Mapping[str, Any] | None = None

    def close(*, clean: bool) -> None:
        if last is not None and phases:
            found.append(Life(int(last.get("pid", 0)), tuple(phases), clean))
            phases.clear()

    for sample in samples:
        at, name = float(sample.get("at", 0)), str(sample.get("phase", ""))
        if last is not None and _process(sample) != _process(last):
            close(clean=False)
        if name == ENDED:
            if phases:
                phases[-1] = Phase(phases[-1].name, phases[-1].began, at)
            close(clean=True)
        elif phases and phases[-1].name == name:
            phases[-1] = Phase(name, phases[-1].began, at)
        else:
            phases.append(Phase(name, phases[-1].ended if phases else at, at))
        last = sample
    close(clean=False)
    return found


def time_of(text: object) -> float | None:
    """Unix time of an ISO 8601 text; None for anything else."""
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _names(store: RunStore) -> list[str]:
    evaluation = store.config.evaluation
    parts = (store.config.clients, evaluation.datasets, evaluation.environments)
    return [item.name for part in parts for item in part]


def _lives_of(store: RunStore, name: str, kept: Sequence[int]) -> list[Life]:
    """By its processes' samples; of a round without any, as of a client on its owner's node, by its results."""
    folders = [client_folder(store.folder, number, name) for number in kept]
    longest = store.config.executor.timeout_s
    found = [life for folder in folders for life in lives(read_samples(folder)) or _by_results(folder, longest)]
    return sorted(found, key=lambda life: life.began)


def _by_results(folder: Path, longest_s: float) -> list[Life]:
    """One for each result: it came when its file was written, and says itself how long it took."""
    found = []
    for kind in ("train", "evaluate", "rollout"):
        path = folder / result_file(kind)
        if is_there(path) and (took := number_of(mapping(read_json(path)).get("duration_s"))) is not None:
            ended = path.stat().st_mtime
            phase = Phase(kind, ended - min(max(took, 0.0), longest_s), ended)
            found.append(Life(0, (phase,), clean=True))
    return found


def _process(sample: Mapping[str, Any]) -> tuple[object, object]:
    return sample.get("pid"), sample.get("started")


def _committed_at(run_dir: Path, line: Json) -> float | None:
    """As the round says; as its manifest's file does, for a round from before that was said."""
    if (said := time_of(line.get("committed_at"))) is not None:
        return said
    path = round_folder(run_dir, int(line["server_round"])) / MANIFEST
    return path.stat().st_mtime if is_there(path) else None


def _place(event: Event, committed: Mapping[int, float]) -> tuple[float, int]:
    """Where an event stands among the others: one of a round, before that is committed."""
    of_round = -1 if event.server_round is None else event.server_round
    at = event.at if event.at is not None else committed.get(of_round)
    return (math.inf if at is None else at, of_round)


def _round_at(at: float, committed: Mapping[int, float]) -> int:
    """The round that was under way."""
    return min((number for number, end in committed.items() if end >= at), default=max(committed, default=-1) + 1)


def _of_the_run(
    store: RunStore, own: Sequence[Life], committed: Mapping[int, float], *, running: bool
) -> Iterator[Event]:
    for index, life in enumerate(own):
        verb: Kind = "went on" if index else "began"
        number = _round_at(life.began, committed)
        with_what = f"round {number}" if index else f"zk0 {store.info.versions.get('zk0')}"
        yield Event(verb, RUN, f"process {life.pid} {verb} with {with_what}", life.began, number)
        newest = index == len(own) - 1
        if not (newest and running):
            yield _end(store, life, committed, newest=newest)
    if (wish := will.shown(store.folder)) is not None and not running:
        yield Event("stopped", RUN, wish.words, time_of(wish.at))
    for line in store.damage:
        at, _, text = line.partition(" ")
        yield Event("damaged", RUN, text, time_of(at))


def _end(store: RunStore, life: Life, committed: Mapping[int, float], *, newest: bool) -> Event:
    number = _round_at(life.ended, committed)
    if newest and store.config.federation.num_rounds in committed and is_folder(store.folder / FINAL):
        return Event("finished", RUN, f"process {life.pid} ended with the final policy written", life.ended)
    if life.clean:
        return Event("ended", RUN, f"process {life.pid} ended before the last round", life.ended, number)
    words = f"process {life.pid} died without a word in round {number}, at {life.phases[-1].name!r}"
    return Event("killed", RUN, words, life.ended, number)


def _of_clients(store: RunStore, rounds: Sequence[Json], kept: Sequence[int]) -> Iterator[Event]:
    for name in _names(store):
        for number in kept:
            for attempt in attempts.failed(client_folder(store.folder, number, name)):
                text = f"{attempt['kind']} failed ({attempt['cause']}): {attempt.get('message')}"
                yield Event("failed", name, text, time_of(attempt.get("at")), number)
        yield from _limits(store.folder, name)
    for line in rounds:
        yield from _of_round(line)


def _limits(run_dir: Path, name: str) -> Iterator[Event]:
    for kind in get_args(TaskKind):
        finding = client_limits.read(run_dir, name, kind)
        for note in finding.notes if finding else ():
            at, half = time_of(note.at), note.micro_batch_size // 2
            if half:
                text = f"{kind}: micro-batch {note.micro_batch_size} -> {half}: {note.figures}"
                later = None if at is None else at + LATER_S
                yield Event("smaller batch", name, text, later, note.server_round)
            else:
                text = f"{kind}: not even one frame at once fits: {note.figures}"
                yield Event("quarantined", name, text, at, note.server_round)
    if (out := quarantine.read(run_dir, name)) is not None:
        words = f"sits out from round {out.server_round + 1} on, refused in {len(out.reasons)} rounds running"
        yield Event("quarantined", name, f"{words}: {out.reasons[-1]}", server_round=out.server_round)


def _of_round(line: Json) -> Iterator[Event]:
    """What a round's own line says: of a pruned round, that is all there is."""
    number = int(line["server_round"])
    for name, figures in mapping(line.get("train")).items():
        causes = mapping(figures).get("failed_attempts")
        known = causes if isinstance(causes, list) else []
        if known:
            text = f"done at attempt {len(known) + 1}, after {', '.join(map(str, known))}"
            yield Event("retried", str(name), text, server_round=number)
    for item in mappings(line.get("failures")):
        refused = item.get("cause") == "bad_data"
        text = f"{item.get('kind')} of round {number}: {item.get('cause')}: {item.get('message')}"
        yield Event("refused" if refused else "left out", str(item.get("client")), text, server_round=number)
    for name, scale in mapping(mapping(line.get("admission")).get("scaled")).items():
        yield Event("scaled", str(name), f"its change is scaled by {scale}, to what is usual", server_round=number)
    for change in mapping(line.get("adaptive")).get("changes", ()):
        yield Event("adaptive", RUN, str(change), server_round=number)
