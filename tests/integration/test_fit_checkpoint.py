"""A killed fit goes on from its checkpoint and ends with the bytes of an undisturbed one: real policies and data."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.service import small_run
from tests.integration.conftest import worker_of
from zk0.config import ExecutorConfig, validate_config
from zk0.errors import ClientError
from zk0.executors.process import ProcessExecutor
from zk0.files import atomic
from zk0.learning.checkpoint import FitCheckpoint, LiveFit
from zk0.runs.records import RoundState
from zk0.runs.store import RunStore
from zk0.work.lock import worker_lock
from zk0.work.records import ArtifactRef, ClientResult, ClientTask

pytestmark = pytest.mark.slow

STEPS, EVERY = 8, 3
ACT = {"chunk_size": 8, "n_action_steps": 4, "dim_model": 32, "n_heads": 2, "dim_feedforward": 32, "dropout": 0.2}
ACT |= {"n_encoder_layers": 1, "n_decoder_layers": 1, "pretrained_backbone_weights": None}
POLICIES: dict[str, dict[str, Any]] = {
    # One episode is left to train on, so that eight steps are more than one pass over it.
    "smolvla-lora": {"federation__strategy": "fedprox", "federation__proximal_mu": 0.1},
    "smolvla-full": {"peft__enabled": False, "training__batch_size": 2},
    "act": {
        "policy": {"type": "act", "device": "cpu", "overrides": ACT},
        "peft__enabled": False,
        "data__normalization": "federated",
    },
}
MEASURES = ("loss", "first_loss", "lr", "grad_norm", "steps")


@dataclass
class Fit:
    """One fit of round 2 (the schedule is under way), ready to be done, and what it gives undisturbed."""

    task: ClientTask
    losses_file: Path
    digest: str = ""
    losses: tuple[float, ...] = ()
    measures: tuple[float, ...] = ()

    @property
    def checkpoint(self) -> Path:
        return self.task.folder / "checkpoint"

    def attempt(self, kill: str = "", at: int = 0) -> int:
        """Do the fit in a process of its own; gives its exit code."""
        context = multiprocessing.get_context("forkserver")
        process = context.Process(target=work, args=(self.task.model_dump_json(), str(self.losses_file), kill, at))
        process.start()
        process.join()
        assert process.exitcode is not None
        return process.exitcode

    def forget(self) -> None:
        shutil.rmtree(self.task.folder, ignore_errors=True)
        self.losses_file.unlink(missing_ok=True)

    def result(self) -> tuple[str, tuple[float, ...], tuple[float, ...]]:
        """Digest of the update, the losses, and the metrics that time does not change."""
        result = ClientResult.model_validate(atomic.read_sealed(self.task.folder / "train.json"))
        assert result.tensors is not None
        return (
            result.tensors.sha256,
            tuple(json.loads(self.losses_file.read_text())),
            tuple(result.metrics[name] for name in MEASURES),
        )

    def check(self) -> None:
        assert self.result() == (self.digest, self.losses, self.measures)
        assert not self.checkpoint.exists()


def work(payload: str, losses_file: str, kill: str, at: int) -> None:
    """In the worker process: `run_task`, killed before (`step`) or after (`saved`) the checkpoint at a step."""
    from zk0.client.run import run_task
    from zk0.learning import training

    fit, after_step = training.fit, FitCheckpoint.after_step

    def recorded(*arguments: Any) -> training.FitOutcome:
        outcome = fit(*arguments)
        Path(losses_file).write_text(json.dumps(outcome.losses))
        if kill == "done":
            os.kill(os.getpid(), signal.SIGKILL)
        return outcome

    def watched(self: FitCheckpoint, live: LiveFit) -> None:
        for moment in ("step", "saved"):
            if (kill, at) == (moment, live.step):
                os.kill(os.getpid(), signal.SIGKILL)
            if moment == "step":
                after_step(self, live)

    patch = pytest.MonkeyPatch()  # never undone: the process ends
    patch.setattr(training, "fit", recorded)
    patch.setattr(FitCheckpoint, "after_step", watched)
    task = ClientTask.model_validate_json(payload)
    with worker_lock(task):
        run_task(task)


def prepare(folder: Path, name: str, **changes: Any) -> Fit:
    from zk0.client.inputs import read_tensors
    from zk0.data import statistics

    changes = {
        "training__steps": STEPS,
        "checkpoint__every_steps": EVERY,
        "evaluation__holdout_episodes": holdout(),
        **changes,
    }
    executor = ProcessExecutor(ExecutorConfig())
    config = validate_config(small_run(folder / "outputs", **changes))
    store = RunStore.create_or_open(config, name)
    stats = None
    if config.data.normalization == "federated":
        counted = executor.run(store.task("statistics", 0, "kitchen"))
        assert counted.tensors is not None
        stats = store.place(0, "stats", read_tensors(store.folder, counted.tensors))
        assert statistics.unflatten_stats(read_tensors(store.folder, stats))
    initial = executor.run(store.task("init", 0, "server"))
    assert initial.tensors is not None
    state = RoundState(server_round=1, arrays=initial.tensors, stats=stats)
    task = store.task("train", 2, "kitchen", state, proximal_mu=config.federation.proximal_mu)
    return Fit(task, folder / f"{name}.losses.json")


def holdout() -> int:
    from zk0.data.datasets import open_metadata

    dataset = validate_config(small_run(Path())).clients[0]
    return int(open_metadata(dataset).total_episodes) - 1


@pytest.fixture(scope="module", params=POLICIES)
def undisturbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Fit:
    fit = prepare(tmp_path_factory.mktemp("fits"), request.param, **POLICIES[request.param])
    set_every_steps(fit, 0)
    assert fit.attempt() == 0
    fit.digest, fit.losses, fit.measures = fit.result()
    assert len(fit.losses) == STEPS
    set_every_steps(fit, EVERY)
    fit.forget()
    return fit


@pytest.fixture
def fit(undisturbed: Fit) -> Fit:
    undisturbed.forget()
    return undisturbed


def set_every_steps(fit: Fit, every_steps: int) -> None:
    """As a resumed run takes new values over: the key has no influence on the result."""
    path = Path(fit.task.run_dir) / "run.json"
    record = atomic.read_sealed(path)
    record["config"]["checkpoint"]["every_steps"] = every_steps
    atomic.write_sealed(path, record)


@pytest.mark.parametrize(
    ("kill", "at", "kept"),
    [
        pytest.param("step", 2, False, marks=pytest.mark.exhaustive),  # before the first checkpoint
        ("saved", 3, True),
        ("step", 6, True),
        ("done", STEPS, True),  # all steps done, no result
    ],
)
def test_a_killed_fit_ends_with_the_same_bytes(fit: Fit, kill: str, at: int, kept: bool) -> None:
    assert fit.attempt(kill, at) == -signal.SIGKILL
    assert fit.checkpoint.exists() is kept
    assert fit.attempt() == 0
    fit.check()


@pytest.mark.exhaustive
def test_a_fit_killed_again_and_again_gets_there(fit: Fit) -> None:
    for at in (4, 5, 7):
        assert fit.attempt("step", at) == -signal.SIGKILL
    assert fit.attempt() == 0
    fit.check()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("undisturbed", ["act"], indirect=True)  # the unit tests damage every file in every way
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        pytest.param("manifest.json", truncate, marks=pytest.mark.exhaustive),
        pytest.param("00000006.json", flip, marks=pytest.mark.exhaustive),
        ("00000006.safetensors", flip),
        ("manifest.json", Path.unlink),
    ],
)
def test_a_damaged_checkpoint_costs_its_steps_only(fit: Fit, name: str, damage: Callable[[Path], None]) -> None:
    assert fit.attempt("step", 7) == -signal.SIGKILL
    damage(fit.checkpoint / name)
    assert fit.attempt() == 0
    fit.check()


def test_a_fit_that_goes_on_from_its_last_ones_moments_is_resumed_exactly_too(tmp_path: Path) -> None:
    fit = prepare(tmp_path, "kept", training__optimizer_state="keep", **POLICIES["act"])
    update: list[str] = []
    moments: list[ArtifactRef] = []
    for kill, at in (("", 0), ("step", 7)):
        for number in (1, 2):
            earlier = moments[-1] if number == 2 else None
            fit.task = fit.task.model_copy(update={"server_round": number, "optimizer": earlier})
            fit.forget()
            if kill:
                assert fit.attempt(kill, at) == -signal.SIGKILL
                assert fit.checkpoint.exists()
            assert fit.attempt() == 0
            result = ClientResult.model_validate(atomic.read_sealed(fit.task.folder / "train.json"))
            assert result.tensors is not None
            assert result.optimizer is not None
            update.append(result.tensors.sha256)
            moments.append(result.optimizer)
    assert update[:2] == update[2:]
    assert [ref.sha256 for ref in moments[:2]] == [ref.sha256 for ref in moments[2:]]
    done = {float(value) for name, value in tensors(fit, moments[1]).items() if name.endswith(".step")}
    assert done == {2 * STEPS}, "the second fit did not go on from the first"


def tensors(fit: Fit, ref: ArtifactRef) -> dict[str, Any]:
    return atomic.read_tensors(Path(fit.task.run_dir) / ref.path)


@pytest.mark.exhaustive
def test_data_from_another_process_are_resumed_exactly_too(tmp_path: Path) -> None:
    fit = prepare(tmp_path, "workers", training__num_workers=1, training__steps=6, **POLICIES["act"])
    set_every_steps(fit, 0)
    assert fit.attempt() == 0
    fit.digest, fit.losses, fit.measures = fit.result()
    set_every_steps(fit, 4)
    fit.forget()
    assert fit.attempt("step", 5) == -signal.SIGKILL
    assert fit.checkpoint.exists()
    assert fit.attempt() == 0
    fit.check()


def test_a_worker_killed_by_the_system_repeats_at_most_every_steps(tmp_path: Path) -> None:
    """Through the executor, as in a run: SIGKILL from outside at some moment, then the executor's next attempt."""
    steps, every = 60, 5
    fit = prepare(tmp_path, "executor", training__steps=steps, checkpoint__every_steps=every, logging__level="DEBUG")
    executor = ProcessExecutor(ExecutorConfig())
    undisturbed = executor.run(fit.task)
    assert undisturbed.tensors is not None
    assert steps_in(fit) == list(range(1, steps + 1))
    fit.forget()

    causes = []
    for killed_at in (12, 31):
        thread = threading.Thread(target=lambda: causes.append(cause_of(executor, fit.task)))
        thread.start()
        wait_for_step(fit, killed_at)
        worker = worker_of(fit.task.folder, "train")
        assert worker is not None
        os.kill(worker.pid, signal.SIGKILL)
        thread.join()
    assert causes == ["lost", "lost"]
    result = executor.run(fit.task)
    assert result.tensors is not None
    assert result.tensors.sha256 == undisturbed.tensors.sha256
    assert {name: result.metrics[name] for name in MEASURES} == {name: undisturbed.metrics[name] for name in MEASURES}
    done = steps_in(fit)
    assert set(done) == set(range(1, steps + 1))
    assert len(done) - steps <= 2 * every
    assert not fit.checkpoint.exists()


def cause_of(executor: ProcessExecutor, task: ClientTask) -> str:
    try:
        executor.run(task)
    except ClientError as error:
        return error.cause
    return "none"


def steps_in(fit: Fit) -> list[int]:
    """The number of every step that was done, as the client's log names them."""
    log = (fit.task.folder / "client.log").read_text()
    return [int(number) for number in re.findall(r"step (\d+) of \d+: loss", log)]


def wait_for_step(fit: Fit, step: int) -> None:
    deadline = time.monotonic() + 300
    log = fit.task.folder / "client.log"
    while not log.is_file() or max(steps_in(fit), default=0) < step:
        assert time.monotonic() < deadline, "not seen in time"
        time.sleep(0.02)
