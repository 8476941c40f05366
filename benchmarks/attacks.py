"""One of five clients lies: what that does to the others' policy, for every strategy: `python -m benchmarks.attacks`.

Four clients are honest: a small ACT from scratch, on joints and cube pose, learns from recordings in four parts of a
bench, or, with `--alike`, in one. The fifth, who has further recordings of one of these parts, fits as they do; then
what it sends is changed. The result is the action error on the four's held-out episodes after the last round, beside
that of the same strategy with nobody lying. A fit is a function of its client, its round and the tensors that it begins
from: one that several attacks or strategies share is done once.
"""

import argparse
import contextlib
import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from loguru import logger
from numpy.typing import NDArray

from benchmarks.federation_value.benches import BENCHES
from zk0.aggregation.server_round import Aggregate, ServerRound
from zk0.aggregation.statistics import refused
from zk0.config import RunConfig
from zk0.data.statistics import aggregate, flatten_stats, unflatten_stats
from zk0.errors import ClientError, QuorumError
from zk0.files import atomic
from zk0.layout import BASE_FOLDER, tensors_file
from zk0.runs.records import RoundState
from zk0.runs.store import RunStore
from zk0.sim.settings import BASE
from zk0.work.records import ArtifactRef, ClientResult, ClientTask
from zk0.work.results import write_result

BENCH = BENCHES["zones"]
HONEST = BENCH.settings
LIAR, LIARS_SETTING = "liar", HONEST[1]
FIRST_SEED, SEED_STEP = 500_000, 1_000
OFF = {"admission": {"max_norm_ratio": 0.0, "quarantine_after": 0}}
STRATEGIES: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "fedavg, admission off": OFF,
    "fedavg, admission clips": {"admission": {"action": "clip"}},
    "fedavgm": {"strategy": "fedavgm", "server_momentum": 0.5},
    "fedadam": {"strategy": "fedadam", "eta": 0.005},
    "fedyogi": {"strategy": "fedyogi", "eta": 0.005},
    "fedtrimmedavg": {"strategy": "fedtrimmedavg", "beta": 0.25},
    "fedmedian": {"strategy": "fedmedian"},
    "krum": {"strategy": "krum", "num_malicious_nodes": 1},
    "multikrum": {"strategy": "multikrum", "num_malicious_nodes": 1},
    "bulyan": {"strategy": "bulyan", "num_malicious_nodes": 1},
}
NEEDS_SEVEN = "bulyan"
"""Clients that it needs: `--more 2`."""
Tensors = dict[str, NDArray[Any]]


class Sent(NamedTuple):
    """What a lie is made of."""

    own: Tensors
    """The honest update."""
    base: Tensors
    """The global tensors."""
    old: Tensors
    """The client's update of round 1."""
    rng: np.random.Generator


Change = Callable[[Sent], Tensors]


def _moved(factor: float) -> Change:
    return lambda sent: {
        name: _cast(sent.base[name] + factor * (value - sent.base[name])) for name, value in sent.own.items()
    }


def _cast(value: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(value, np.float32)


UPDATES: dict[str, Change] = {
    "NaN": lambda sent: {name: np.full_like(value, np.nan) for name, value in sent.own.items()},
    "sign flip": _moved(-1),
    "x100": _moved(100),
    "x1e20": _moved(1e20),
    "random": lambda sent: {name: _cast(sent.rng.standard_normal(value.shape)) for name, value in sent.own.items()},
    "old update": lambda sent: sent.old,
}
COUNT = "absurd count"
STATISTICS = "absurd statistics"
ATTACKS = (*UPDATES, COUNT, STATISTICS)
CLEAN = "nobody"


@dataclass
class Outcome:
    """What a strategy came to under an attack."""

    error: float | None
    """Mean action error of the honest clients after the last round, in degrees; None where the run ended."""
    refused: list[int] = field(default_factory=list)
    """Rounds in which the liar was refused."""
    ended: str = ""
    """Why the run ended before, in words."""


def configuration(folder: Path, name: str, options: argparse.Namespace) -> RunConfig:
    """The config of one strategy's run."""
    clients = [
        {"name": client, "repo_id": f"zk0/{client}", "root": str(folder / "recordings" / client)}
        for client in everybody(options.more)
    ]
    federation = {"num_rounds": options.rounds, "min_train_clients": 3, **STRATEGIES[name]}
    training = {"steps": options.steps, "batch_size": 16, "lr": 1e-3, "scheduler": "constant"}
    return RunConfig.model_validate(
        {
            **BENCH.config,
            "seed": options.seed,
            "outputs_dir": str(folder / "runs"),
            "clients": clients,
            "federation": federation,
            "training": training,
            "evaluation": {"holdout_episodes": 3, "frame_stride": 4},
            "checkpoint": {"every_steps": 0},
        }
    )


def everybody(more: int) -> list[str]:
    """The clients: the honest ones, so many more of them in the same parts of the bench, and the liar."""
    return [*HONEST, *(f"{HONEST[number % len(HONEST)]}-{number}" for number in range(more)), LIAR]


def record_all(folder: Path, episodes: int, more: int, *, alike: bool) -> None:
    """Everybody's demonstrations, by the simulator's scripted expert; `alike`: in one part of the bench."""
    from zk0.sim.record import record

    for number, client in enumerate(everybody(more)):
        setting = LIARS_SETTING if client == LIAR else client.rstrip("-0123456789")
        setting = BASE if alike else setting
        seed = FIRST_SEED + number * SEED_STEP
        with contextlib.redirect_stdout(sys.stderr):
            record(setting, episodes, folder / "recordings" / client, seed, BENCH.obs_type)


class Fits:
    """Honest work, each piece done once, whoever asks for it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.done, self.asked = folder, 0, 0
        self._base: Path | None = None
        self._known: dict[tuple[str, ...], tuple[Tensors | None, int, dict[str, Any]]] = {}

    def __call__(self, task: ClientTask) -> ClientResult:
        """Do it, or write what came of it elsewhere."""
        from zk0.client.run import run_task

        self.asked += 1
        incoming = [ref.sha256 if ref else "" for ref in (task.incoming, task.stats)]
        key = (task.kind, task.client, str(task.server_round), *incoming)
        if key not in self._known:
            with contextlib.redirect_stdout(sys.stderr):  # LeRobot prints what it loads
                result = run_task(task)
            self.done += 1
            self._base = self._base or Path(task.run_dir) / BASE_FOLDER
            tensors = None
            if result.tensors is not None:
                tensors = atomic.read_tensors(Path(task.run_dir) / result.tensors.path)
            self._known[key] = (tensors, result.num_examples, result.metrics)
            return result
        tensors, examples, metrics = self._known[key]
        if task.kind == "init" and self._base is not None:  # the policy made from scratch, which every run has
            shutil.copytree(self._base, Path(task.run_dir) / BASE_FOLDER)
        task.folder.mkdir(parents=True, exist_ok=True)
        return write_result(
            task, tensors=tensors, num_examples=examples, metrics=metrics, duration_s=0.1, peak_rss_bytes=1
        )


class Attacked:
    """One run: a strategy and an attack."""

    def __init__(self, config: RunConfig, name: str, attack: str, fits: Fits) -> None:
        self.store = RunStore.create_or_open(config, name)
        self.config, self.attack, self.fits = config, attack, fits
        self.clients = [client.name for client in config.clients]
        self.outcome = Outcome(None)
        self.counts: dict[str, int] = {}
        self._old: Tensors | None = None

    def run(self) -> Outcome:
        """Its rounds, and the evaluation."""
        try:
            state = self._begin()
            before: Aggregate | None = None
            for number in range(1, self.config.federation.num_rounds + 1):
                before = self._round(number, state, before)
                arrays = self.store.place(number, "global", before.tensors)
                state = RoundState(server_round=number, arrays=arrays, stats=state.stats)
        except (QuorumError, ClientError) as error:
            self.outcome.ended = f"{type(error).__name__}: {error}"
            return self.outcome
        last = self.config.federation.num_rounds
        figures = [self.fits(self.store.task("evaluate", last, name, state)).metrics for name in HONEST]
        self.outcome.error = float(np.mean([item["action_error_deg"] for item in figures]))
        return self.outcome

    def _begin(self) -> RoundState:
        first = self.fits(self.store.task("init", 0, "server"))
        assert first.tensors is not None
        files: dict[str, Path] = {}
        for client in self.clients:
            result = self.fits(self.store.task("statistics", 0, client))
            assert result.tensors is not None
            files[client] = self.store.path(result.tensors)
            self.counts[client] = result.num_examples
        if self.attack == STATISTICS:
            absurd = {name: _absurd(name, value) for name, value in atomic.read_tensors(files[LIAR]).items()}
            atomic.write_tensors(files[LIAR], absurd)
        why = refused(files, self.counts)
        self.outcome.refused += [0] if LIAR in why else []
        known = [unflatten_stats(atomic.read_tensors(path)) for client, path in files.items() if client not in why]
        stats = self.store.place(0, "stats", flatten_stats(aggregate(known)))
        return RoundState(server_round=0, arrays=first.tensors, stats=stats)

    def _round(self, number: int, state: RoundState, before: Aggregate | None) -> Aggregate:
        kept: tuple[Any, Any, Any] = ({}, {}, {})
        if before is not None:
            kept = (before.strategy_tensors, before.strategy_scalars, before.history.record())
        attempt = ServerRound(self.config, number, self.store.path(state.arrays), *kept, self.counts)
        results = []
        for client in self.clients:
            task = self.store.task("train", number, client, state)
            result = self.fits(task)
            results.append(self._lie(task, result, number, state) if client == LIAR else result)
        made = attempt.aggregate(results, self.store.folder)
        self.outcome.refused += [number for failure in made.failures if failure.client == LIAR]
        assert all(np.isfinite(value).all() for value in made.strategy_tensors.values())
        return made

    def _lie(self, task: ClientTask, result: ClientResult, number: int, state: RoundState) -> ClientResult:
        """What the liar sends in place of its fit."""
        assert result.tensors is not None
        own = atomic.read_tensors(self.store.path(result.tensors))
        self._old = self._old or own
        if self.attack == COUNT:
            return result.model_copy(update={"num_examples": 10**12})
        if self.attack not in UPDATES:
            return result
        base = atomic.read_tensors(self.store.path(state.arrays))
        rng = np.random.default_rng(number)
        with np.errstate(over="ignore"):
            sent = UPDATES[self.attack](Sent(own, base, self._old, rng))
        path = task.folder / tensors_file("lie")
        digest = atomic.write_tensors(path, sent)
        ref = ArtifactRef(
            path=path.relative_to(self.store.folder).as_posix(), sha256=digest.sha256, size=digest.size
        )  # fmt: skip
        return result.model_copy(update={"tensors": ref})


def _absurd(name: str, value: NDArray[Any]) -> NDArray[Any]:
    """Statistics that are possible by themselves, and a million times too large."""
    return value if name.endswith("/count") or value.ndim > 1 else np.asarray(1e6 * value)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30, help="optimizer steps of each client in each round")
    parser.add_argument("--episodes", type=int, default=16, help="demonstrations of each client, the last 3 held out")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--more", type=int, default=0, help="further honest clients; bulyan needs two")
    parser.add_argument("--alike", action="store_true", help="everybody's cubes lie in the same part of the bench")
    parser.add_argument("--strategies", nargs="*", choices=[*STRATEGIES])
    parser.add_argument("--attacks", nargs="*", choices=ATTACKS, default=[*ATTACKS])
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args(arguments)
    if options.strategies is None:
        options.strategies = [name for name in STRATEGIES if name != NEEDS_SEVEN or options.more >= 2]
    logger.remove()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    started, found = time.monotonic(), dict[str, dict[str, Outcome]]()
    head = ["strategy", "nobody lies, deg", *options.attacks]
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|", flush=True)
    with tempfile.TemporaryDirectory(prefix="zk0-attacks-") as scratch:
        record_all(Path(scratch), options.episodes, options.more, alike=options.alike)
        fits = Fits(Path(scratch))
        for name in options.strategies:
            found[name] = {}
            for number, attack in enumerate([CLEAN, *options.attacks]):
                config = configuration(Path(scratch), name, options)
                run = f"{[*STRATEGIES].index(name)}-{number}"
                found[name][attack] = Attacked(config, run, attack, fits).run()
            print(row(name, found[name], options.attacks), flush=True)
        minutes = (time.monotonic() - started) / 60
        print(f"\n{fits.done} of {fits.asked} pieces of work were done, in {minutes:.0f} minutes", flush=True)
    if options.json:
        figures = {name: {attack: vars(item) for attack, item in own.items()} for name, own in found.items()}
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


def row(name: str, outcomes: dict[str, Outcome], attacks: Sequence[str]) -> str:
    """Errors beside the clean run's; the rounds in which the liar was refused in brackets."""
    clean = outcomes[CLEAN].error
    cells = [name, "-" if clean is None else f"{clean:.2f}"]
    for attack in attacks:
        item = outcomes[attack]
        if item.error is None or clean is None:
            cells.append("run ended" if item.ended else "-")
            continue
        rounds = ", ".join(map(str, item.refused))
        cells.append(f"{item.error / clean - 1:+.1%}" + (f" [{rounds}]" if rounds else ""))
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
