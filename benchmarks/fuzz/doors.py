"""Who reads the files of a run: what goes on with it, and what shows it."""

import hashlib
import io
import json
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from zk0.aggregation import adaptive
from zk0.config import RunConfig
from zk0.errors import ClientError
from zk0.executors.living import lock_holder
from zk0.federation.server import server_round
from zk0.files import atomic, cache
from zk0.layout import client_folder, worker_lock_file
from zk0.memory import client_limits, leaks
from zk0.memory.samples import killed_for_memory, last_words, read_samples
from zk0.report import markdown, terminal
from zk0.report.pictures import draw_all
from zk0.runs import counted, served, will
from zk0.runs.origin import settle_origin
from zk0.runs.progress import status_json
from zk0.runs.records import RoundState
from zk0.runs.store import RunStore, is_finished
from zk0.work import attempts, quarantine
from zk0.work.failure import leave_failure, read_failure
from zk0.work.log import client_log, last_line
from zk0.work.promised import check_promised
from zk0.work.records import ArtifactRef, ClientResult, ClientTask
from zk0.work.results import find_finished

DRAWN = ("metrics.jsonl", "metrics.json", "evaluate.safetensors", "evaluate.json", "run.json")
"""Files that pictures are made of."""


class Corrupt(AssertionError):  # noqa: N818 - it is what happened
    """Something was taken for what it is not."""


@dataclass
class Truth:
    """What is true of the run that is mutated."""

    config: RunConfig
    states: dict[int, RoundState]
    results: dict[tuple[int, str], ClientResult]
    """Round and client -> its fit."""
    kept: dict[str, str]
    """Of the cache: a record."""


def learn(folder: Path) -> Truth:
    """What is true of a run whose last round has its work and no commit."""
    store = RunStore.open(folder)
    with store.lock():
        states = {number: store.state(number) for number in store.committed_rounds()}
        done = [task for state in (None, *states.values()) for task in tasks(store, state)]
        found = {(task.server_round, task.client): find_finished(task) for task in done}
    results = {where: result for where, result in found.items() if result is not None}
    return Truth(store.config, states, results, cache.read("fuzz", "record"))


def tasks(store: RunStore, state: RoundState | None) -> list[ClientTask]:
    """The fits of the round under way; its evaluations start from what is aggregated, which is not there yet."""
    number = 0 if state is None else state.server_round + 1
    return [store.task("train", number, client.name, state) for client in store.config.clients]


def go_on(folder: Path, truth: Truth, *, lied: bool) -> None:
    """What a resume reads, up to the aggregated tensors; what it takes must be what was written.

    Args:
        folder: the run directory.
        truth: of it.
        lied: whether a record may say something else and be sealed: then only its digests must hold.
    """
    store = RunStore.open(folder)
    is_finished(store)
    with store.lock():
        state = store.resume_point()
        _hold(folder, state)
        if state is not None and not lied and state != truth.states.get(state.server_round):
            raise Corrupt(f"round {state.server_round} is taken for whole, and is not what was committed")
        rounds = store.read_metrics()
        adaptive.decide(store.config, rounds, len(rounds))
        results, failures = [], []
        for task in tasks(store, state):
            _notes(task)
            try:
                result = _finished(task, truth, lied=lied)
            except ClientError as error:
                failures.append(error)
                continue
            if result is not None:
                results.append(result)
        if state is None:
            return
        dict(store.load_strategy_state(state.server_round)[0])
        if len(results) + len(failures) == len(store.config.clients):
            _aggregate(store, state, results)
        store.prune(1)
        _ = store.damage


def _finished(task: ClientTask, truth: Truth, *, lied: bool) -> ClientResult | None:
    quarantine.check(task)
    client_limits.read(Path(task.run_dir), task.client, task.kind)
    result = find_finished(task)
    if result is None:
        return None
    check_promised(result, truth.config)
    _hold_ref(Path(task.run_dir), result.tensors)
    if not lied and result != truth.results.get((task.server_round, task.client)):
        raise Corrupt(f"{task.kind} of {task.client} is taken for finished, and is not what was written")
    return result


def _notes(task: ClientTask) -> None:
    """What a dead worker left."""
    read_failure(task)
    attempts.failed_causes(task.folder, task.kind)
    last_line(client_log(task))
    read_samples(task.folder)
    last_words(task.folder)
    killed_for_memory(task.folder)
    lock = task.folder / worker_lock_file(task.kind)
    if lock.exists():
        lock_holder(lock)


def _aggregate(store: RunStore, state: RoundState, results: list[ClientResult]) -> None:
    counted.read(store.folder)
    made = server_round(store, state.server_round + 1, state).aggregate(results, store.folder)
    if not all(np.isfinite(tensor).all() for tensor in made.tensors.values()):
        raise Corrupt("what was aggregated is not finite")


def _hold(folder: Path, state: RoundState | None) -> None:
    if state is not None:
        for ref in (state.arrays, state.stats, *state.optimizers.values()):
            _hold_ref(folder, ref)


def _hold_ref(folder: Path, ref: ArtifactRef | None) -> None:
    """By other means than zk0's own."""
    if ref is not None and hashlib.sha256((folder / ref.path).read_bytes()).hexdigest() != ref.sha256:
        raise Corrupt(f"{ref.path} has not the digest that it is taken for")


def start(folder: Path, truth: Truth) -> None:
    """What a start asks of the folder of runs."""
    store = next((run for run in RunStore.list_runs(folder.parent) if run.folder == folder), None)
    if store is not None:
        _ = (store.stopped, store.holder(), served.read(folder), will.shown(folder), store.data_files())
    settle_origin(truth.config.model_copy(update={"continue_from": folder.name}), "next")


def show(folder: Path, truth: Truth, *, draw: bool) -> None:
    """Everything that shows a run; of none of it may be said that it ended a run."""
    console = Console(file=io.StringIO(), width=140)
    console.print(terminal.status_view(folder))
    console.print(terminal.closing_view(folder))
    if (table := terminal.success_table(folder)) is not None:
        console.print(table)
    console.print(terminal.summary_table(folder))
    json.dumps(status_json(folder))
    store = RunStore.open(folder)
    rounds = store.read_metrics()
    leaks.warn(rounds)
    for number in {0, len(rounds) - 1} if rounds else ():
        markdown.round_table(truth.config, number, rounds)
        markdown.round_message(truth.config, number, rounds)
    if rounds:
        markdown.summary(store, rounds)
    if draw:
        draw_all(folder, store.config, rounds)


def restore(folder: Path, checkpoint: "Checkpoint") -> None:
    """A worker's way from its checkpoint: it goes on from what was saved, or from its first step."""
    checkpoint.check(folder)


class Checkpoint:
    """A fit's checkpoint of a small policy, in the round under way of a run."""

    def __init__(self, folder: Path) -> None:
        from zk0.learning.checkpoint import FitCheckpoint

        store = RunStore.open(folder)
        self._task = tasks(store, store.resume_point())[0]
        fit = self._fresh()
        self._step(fit)
        FitCheckpoint(self._task, 1).save(fit)
        self._wanted = self._values(fit)
        leave_failure(self._task, RuntimeError("odd"))

    def check(self, folder: Path) -> None:
        from zk0.learning.checkpoint import FitCheckpoint

        fit = self._fresh()
        before = self._values(fit)
        task = self._task.model_copy(update={"run_dir": str(folder)})
        FitCheckpoint(task, 1).restore(fit)
        if self._values(fit) != (self._wanted if fit.step else before):
            raise Corrupt("a fit goes on from what was not saved")

    @staticmethod
    def _fresh() -> Any:
        import torch

        from zk0.learning.checkpoint import LiveFit

        torch.manual_seed(1)
        policy = torch.nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(policy.parameters(), lr=0.1)
        return LiveFit(policy, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1)))

    @staticmethod
    def _step(fit: Any) -> None:
        import torch

        fit.policy(torch.ones(1, 3)).sum().backward()
        fit.optimizer.step()
        fit.scheduler.step()
        fit.losses.append(0.5)

    @staticmethod
    def _values(fit: Any) -> str:
        policy = {name: value.tolist() for name, value in fit.policy.state_dict().items()}
        state = {name: sorted(values.items()) for name, values in fit.optimizer.state_dict()["state"].items()}
        return repr((policy, state, fit.scheduler.state_dict()["last_epoch"], fit.losses))


def read_cache(truth: Truth, *, lied: bool) -> None:
    """What the cache gives is what was kept, or nothing; or what was sealed again."""
    if cache.read("fuzz", "record") not in ({}, truth.kept) and not lied:
        raise Corrupt("a record of the cache is not what was kept")


def furnish(folder: Path, rng: random.Random) -> None:
    """The files that a run has only when something went wrong."""
    store = RunStore.open(folder)
    state = store.resume_point()
    for task in tasks(store, state):
        with (client_folder(folder, task.server_round, task.client) / "attempts.jsonl").open("a") as lines:
            lines.write(json.dumps({"kind": "train", "cause": "error", "message": "odd", "at": "now"}) + "\n")
        (task.folder / worker_lock_file("train")).write_text(str(os.getpid()))
        (task.folder / "progress.json").write_text(json.dumps({"kind": "train", "step": 1, "steps": 2, "loss": 0.5}))
    quarantine.put(folder, "nobody", 1, ["it was odd"])
    client_limits.expect(folder, "kitchen", "train", 2, client_limits.note(4, 1, "much"))
    store.mark_stopped("cancelled", "somebody", "for a while")
    served.write(folder, served.Served(flow_run="a", database="b"))
    atomic.append_line(folder / "damage.log", f"once {rng.random()}")
    cache.write("fuzz", "record", {"found": "this"})
