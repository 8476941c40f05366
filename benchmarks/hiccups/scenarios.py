"""What a resume does, in parts that can be done thousands of times: each on its own run directory."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.service import CLIENTS, small_run
from zk0.config import RunConfig, validate_config
from zk0.errors import StorageError
from zk0.executors.death import outcome
from zk0.executors.process import ProcessExecutor
from zk0.federation import identity
from zk0.federation.round import federate
from zk0.federation.start import advancing, check_again, choose_run, unfinished
from zk0.federation.steps import Steps
from zk0.files.atomic import read_text
from zk0.preflight.records import Preflight
from zk0.runs import counted
from zk0.runs.origin import settle_origin
from zk0.runs.records import RoundState
from zk0.runs.store import RunStore, is_finished
from zk0.work import attempts, quarantine
from zk0.work.failure import read_failure
from zk0.work.records import ClientResult, ClientTask
from zk0.work.results import find_finished, write_result

NAME = "shaken"


@dataclass(frozen=True)
class Scenario:
    """A part of a resume."""

    name: str
    make: Callable[[Path], None]
    """Makes the folder of runs in which it begins."""
    act: Callable[[Path], str]
    """Does it; gives what came of it, which must always be the same."""
    left_alone: Callable[[Path], bool] = lambda _: True
    """Whether a try that failed left all that was there."""


def made_up(outputs: Path) -> None:
    """A run without data: rounds 0 and 1 are committed, round 2 has all its fits; another run was finished before."""
    config = validate_config(small_run(outputs))
    for name, last in (("finished", 2), (NAME, 1)):
        store = RunStore.create_or_open(config if name == NAME else _other(config), name, {"kitchen": {"a": "0" * 64}})
        counted.keep(store.folder, dict.fromkeys(CLIENTS, 5))
        state = None
        for number in range(last + 1):
            state = _commit(store, number, state)
        if name == "finished":
            (store.folder / "final").mkdir()
            continue
        for client in CLIENTS:
            _fit(store, last + 1, client, state)
        quarantine.put(store.folder, "office", 1, ["it was odd"])
        (store.round_folder(2) / "clients" / "kitchen" / "attempts.jsonl").write_text("{}\n")


def _other(config: RunConfig) -> RunConfig:
    return config.model_copy(update={"seed": 8})


def _commit(store: RunStore, number: int, before: RoundState | None) -> RoundState:
    results = [_fit(store, number, client, before) for client in CLIENTS] if before else []
    return store.commit(
        number,
        arrays={"w": np.full((2, 3), number, np.float32)},
        strategy_tensors={"m_t/w": np.ones(3)},
        strategy_scalars={"m_t": ["dict", ["w"]]},
        metrics={"loss": 1.0},
        results=results,
        stats={"mean": np.zeros(2)},
    )


def _fit(store: RunStore, number: int, client: str, state: RoundState | None) -> ClientResult:
    return write_result(
        store.task("train", number, client, state),
        tensors={"w": np.ones((2, 3), np.float32)},
        num_examples=5,
        metrics={"loss": 0.5},
        duration_s=1.0,
        peak_rss_bytes=1,
    )


def look_up(outputs: Path) -> str:
    """What a start by a config, and a schedule, ask of the folder of runs before anything is done."""
    config = validate_config(small_run(outputs))
    found = unfinished(config)
    if found is None:
        raise AssertionError("the unfinished run was not found: a new one would begin")
    again = choose_run(str(outputs / NAME), [], None, by_hand=False)
    later = settle_origin(config.model_copy(update={"continue_from": "finished"}), "next")
    finished = is_finished(RunStore.open(outputs, "finished"))
    return f"{found.folder.name} {again.folder.name} {later.continue_from} {finished} {again.data_files()}"


def take_up(outputs: Path) -> str:
    """What an orchestrator reads of a run before it does anything."""
    store = RunStore.open(outputs, NAME)
    with advancing(store):
        identity.check(store, {"kitchen": {"a": "0" * 64}})
        state = store.resume_point()
        if state is None:
            raise AssertionError("no round was found whole")
        found = []
        for client in CLIENTS:
            task = store.task("train", state.server_round + 1, client, state)
            quarantine.check(task)
            result = find_finished(task)
            if result is None or result.tensors is None:
                raise AssertionError(f"the fit of {client} would be done again")
            found += [result.tensors.sha256, read_failure(task), attempts.failed_causes(task.folder, "train")]
        tensors, scalars = store.load_strategy_state(state.server_round)
        strategy = {name: tensor.tolist() for name, tensor in tensors.items()}, scalars
        read = [counted.read(store.folder), quarantine.read(store.folder, "office"), store.read_metrics(), strategy]
        return repr((state, found, read, store.damage))


def trained(outputs: Path) -> None:
    """A real run whose second round has all its work, and no commit."""
    import zk0

    run = zk0.run({**small_run(outputs), "report": {"joint_charts": True}}, name=NAME)
    (run.path / "rounds" / "0002" / "manifest.json").unlink()
    shutil.rmtree(run.path / "final")
    lines = run.path / "metrics.jsonl"
    lines.write_text("".join(lines.read_text().splitlines(keepends=True)[:2]))


def go_on(outputs: Path) -> str:
    """The orchestrator's whole way from the lock to the last commit: nothing is left to train."""
    ProcessExecutor.preload = ()  # no call on this way needs torch
    store = RunStore.open(outputs, NAME)
    check_again(store, lambda config: Preflight(config=config, frames={}, exchanged_bytes=1))
    with advancing(store):
        state = federate(Steps(store))
        fits = [line.get("train") for line in store.read_metrics()]
        return repr((state.arrays.sha256, [sorted(fit or {}) for fit in fits]))


def _with_imports(make: Callable[[Path], None]) -> Callable[[Path], None]:
    """Whoever is forked has torch then; importing it takes longer than all else."""

    def made(outputs: Path) -> None:
        make(outputs)
        from zk0.executors import preload  # noqa: F401
        from zk0.learning import checkpoint  # noqa: F401

    return made


def cut_short(outputs: Path) -> None:
    """A real run in whose second round one fit has a checkpoint, after the first of two steps."""
    trained(outputs)
    store = RunStore.open(outputs, NAME)
    task = _last_fit(store)
    shutil.rmtree(task.folder)
    if (child := os.fork()) == 0:
        _work_until_saved(task)
    os.waitpid(child, 0)
    if not (task.folder / "checkpoint" / "manifest.json").exists():
        raise SystemExit("the fit left no checkpoint")


def _last_fit(store: RunStore) -> ClientTask:
    return store.task("train", 2, CLIENTS[0], store.state(1))


def _work_until_saved(task: ClientTask) -> None:
    from zk0.executors.worker import work
    from zk0.learning.checkpoint import FitCheckpoint

    saved = FitCheckpoint.save

    def dies(self: FitCheckpoint, fit: object) -> None:
        saved(self, fit)  # type: ignore[arg-type]
        os._exit(0)

    FitCheckpoint.save = dies  # type: ignore[method-assign]
    FitCheckpoint.after_step = FitCheckpoint.save  # type: ignore[method-assign]
    work(task.model_dump_json())
    os._exit(1)


def fit(outputs: Path) -> str:
    """The worker's whole way: lock, checkpoint, the rest of the fit, result; what its process left is judged."""
    from zk0.executors.worker import work

    store = RunStore.open(outputs, NAME)
    task = _TASKS.get(outputs) or _last_fit(store)
    _TASKS[outputs] = task
    if (child := os.fork()) == 0:
        code = 0
        try:
            work(task.model_dump_json())
        except SystemExit as end:
            code = int(end.code or 0)
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    result = outcome(task, code)
    if result.tensors is None:
        raise AssertionError("a fit without an update")
    if "starts at its first step" in read_text(task.folder / "client.log"):
        raise AssertionError("the fit was begun again")
    return result.tensors.sha256


_TASKS: dict[Path, ClientTask] = {}
"""Where it is done -> the fit, whose description is made once: what a worker is given."""


def keeps_checkpoint(outputs: Path) -> bool:
    """Whether the fit's checkpoint, or its result, is there still."""
    folder = outputs / NAME / "rounds" / "0002" / "clients" / CLIENTS[0]
    return (folder / "checkpoint" / "manifest.json").exists() or (folder / "train.json").exists()


def export(outputs: Path) -> str:
    """What a worker reads to write the final policy."""
    from zk0.executors.calls import save_policy
    from zk0.work.told import tell

    store = RunStore.open(outputs, NAME)
    target = outputs.parent / "exported"
    shutil.rmtree(target, ignore_errors=True)
    work = store.task("evaluate", 1, CLIENTS[0], store.state(1))
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            save_policy(work.model_dump_json(), str(target), False, False)
        except BaseException as error:  # noqa: BLE001 - told, as by `executors.call`
            os.write(writer, tell(error).model_dump_json().encode()[:60_000])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        said = file.read()
    os.waitpid(child, 0)
    if said:
        from zk0.executors.call import error_of
        from zk0.work.told import Told

        raise error_of(Told.model_validate_json(said), of_input=False)
    from zk0.files.atomic import file_digest

    return file_digest(target / "adapter_model.safetensors").sha256


def is_refusal(error: BaseException) -> bool:
    """Whether an error says that a disk does not answer, and no more."""
    from zk0.errors import DamageError

    return isinstance(error, StorageError) and not isinstance(error, DamageError)


QUICK = [Scenario("look up", made_up, look_up), Scenario("take up", made_up, take_up)]
"""Done in milliseconds."""
WHOLE = [
    *QUICK,
    Scenario("go on", trained, go_on),
    Scenario("fit", _with_imports(cut_short), fit, keeps_checkpoint),
    Scenario("export", _with_imports(trained), export),
]
