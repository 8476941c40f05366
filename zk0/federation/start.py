"""From a config to a run directory: which run a start means, and what is checked before a new one is made."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from loguru import logger

from zk0.config import RunConfig, load_config
from zk0.config.paths import absolute_path, check_target
from zk0.errors import RunNameError
from zk0.executors import calls
from zk0.executors.process import ProcessExecutor
from zk0.federation import before_run, identity
from zk0.logs.setup import setup_orchestrator
from zk0.memory import client_limits
from zk0.memory.estimate import expectation, fitting_micro_batch
from zk0.memory.sampler import watched
from zk0.preflight.disk import check_free_space
from zk0.preflight.records import Preflight
from zk0.runs import counted, described
from zk0.runs.lock import check_locks, is_ours
from zk0.runs.named import named
from zk0.runs.origin import settle_origin, settled_like
from zk0.runs.store import RunStore, check_name, is_finished, is_run
from zk0.work.executor import STOPPED

STATE_SETS = {
    **dict.fromkeys(("fedavg", "fedprox", "fedtrimmedavg", "fedmedian", "krum", "multikrum", "bulyan"), 0),
    **dict.fromkeys(("fedavgm", "fedadam", "fedyogi"), 2),
}
"""federation.strategy -> sets of tensors that its state is, as large as the exchanged tensors, in every round."""
MOST_STATE_SETS = 2
"""Assumed of a strategy that is not of zk0."""
Check = Callable[[RunConfig], Preflight]
"""Looks at data and policy, in a process that has torch, before anything is written."""
GoingOn = Callable[[RunStore], None]
HOLDER_POLL_S = 2.0
LONGEST_STEM = 40
"""Characters of a config's name that its runs' names begin with."""
LOG_BYTES = 100 * 2**20
"""Room for logs and metrics that must be free on the disk before a run starts, beside its tensors."""


def begin(
    config: RunConfig,
    name: str | None = None,
    stem: str = "run",
    *,
    check: Check = before_run.check,
    going_on: GoingOn = lambda _: None,
    wait: bool = False,
    suggested: str | None = None,
) -> RunStore:
    """The run directory that a start means: a new one, or that of an unfinished run of just this config.

    Everything is checked before anything is written.

    Args:
        config: the wanted config.
        name: the run's name; None for an unfinished run of the config, else a new name.
        stem: what a new name begins with.
        check: the checks before a run.
        going_on: told of an unfinished run that is taken up because no name was given.
        wait: where another process has that run under way, wait for its end and then start the next, so that a start is
            neither doubled nor lost; else start the next now. What was ended by Ctrl-C is then left alone, too.
        suggested: names a run that there is, and else a new one where none goes on; a name with the time when None.

    Raises:
        BadInputError: config, data, policy or name cannot be used; nothing was created.
    """
    if name is None and suggested is not None and RunStore.exists(config.outputs_dir, suggested):
        name = suggested
    if name is not None:
        check_name(name)
        if (done := _finished(config, name)) is not None:
            return done
    check_target("outputs_dir", config.outputs_dir)
    found = _free(config, served=wait) if name is None else None
    if found is not None:
        going_on(found)
        check_again(found, check)
        return found
    return _new(config, name or suggested or new_name(stem), check)


def check_again(store: RunStore, check: Check = before_run.check) -> None:
    """What is checked before a run that exists goes on: not what its fits need, which is known from those it did.

    Raises:
        BadInputError: the first thing that would fail.
    """
    if not is_finished(store):
        with named(store.info.name):
            found = _warned(check(_without_probe(store.config)))
        identity.check(store, found.files)
        _keep_described(store, found)


def check_recordings(store: RunStore) -> None:
    """What is checked before a run is taken up without a person: its recordings are those that it was begun with.

    Raises:
        DatasetError: they are not; or one cannot be read.
    """
    if not is_finished(store):
        identity.check(store, ProcessExecutor(store.config.executor).call(calls.digests, store.config))


def _finished(config: RunConfig, name: str) -> RunStore | None:
    """A run that needs nothing any more but to be looked at, such as with another `federation.may_miss`."""
    if not RunStore.exists(config.outputs_dir, name):
        return None
    known = RunStore.open(config.outputs_dir, name)
    return RunStore.create_or_open(settled_like(config, known.config), name) if is_finished(known) else None


def _free(config: RunConfig, *, served: bool) -> RunStore | None:
    """An unfinished run of the config that nobody has under way, and nobody wants to stand still."""
    said = False
    while (found := unfinished(config, interrupted=not served)) is not None:
        if (holder := found.holder()) is None:
            return found
        if not served:
            return None
        if not said:
            logger.info("run {} is under way in process {}: waiting for its end", found.info.name, holder["pid"])
        said = True
        time.sleep(HOLDER_POLL_S)
    return None


def _new(config: RunConfig, name: str, check: Check) -> RunStore:
    check_locks(absolute_path(config.outputs_dir))
    known = RunStore.exists(config.outputs_dir, name)
    with named(name):
        checked = _warned(check(_without_probe(config) if known else config))
    settled = checked.config.model_copy(update={"memory": config.memory})
    settled = settle_origin(settled, name)
    size = fitting_micro_batch(settled, checked.memory)
    check_free_space(settled.outputs_dir, room_needed(settled, checked.exchanged_bytes) + checked.base_bytes)
    store = RunStore.create_or_open(settled, name, checked.files)
    if known:
        identity.check(store, checked.files)
    _keep_described(store, checked)
    counted.keep(store.folder, {} if known else checked.training_frames)
    if size is not None and checked.memory is not None:
        for client in settled.clients:
            client_limits.expect(store.folder, client.name, "train", size, expectation(settled, checked.memory))
    return store


def _keep_described(store: RunStore, found: Preflight) -> None:
    described.keep(store.folder, {name: said.model_dump(mode="json") for name, said in found.described.items()})


def room_needed(config: RunConfig, exchanged_bytes: int) -> int:
    """Bytes that a run may have on its disk at once.

    Each kept round, the base, the best and the one under way: global tensors, strategy, every client's update; of each
    fit under way two checkpoints: the tensors and their two moments.

    Args:
        config: the run's.
        exchanged_bytes: one set of exchanged tensors.
    """
    state = STATE_SETS.get(config.federation.strategy, MOST_STATE_SETS)
    if config.training.optimizer_state == "keep":
        state += 2 * len(config.clients)
    sets = (config.checkpoint.keep + 3) * (1 + len(config.clients) + state) + 6 * config.executor.places
    return sets * exchanged_bytes + LOG_BYTES


def _warned(found: Preflight) -> Preflight:
    for warning in found.warnings:
        logger.warning("{}", warning)
    return found


def _without_probe(config: RunConfig) -> RunConfig:
    return config.model_copy(update={"memory": config.memory.model_copy(update={"probe": False})})


@contextmanager
def advancing(store: RunStore) -> Iterator[None]:
    """Be the one process that advances a run, with its log and memory written into the run directory meanwhile.

    Raises:
        RunNameError: another process advances it.
        ConfigError: the run directory, or its log, cannot be written as the config says.
    """
    if is_ours(store.folder):  # a flow of `zk0 run`, which has begun it
        yield
        return
    with store.lock():
        STOPPED.clear()  # of a run that this process had before
        setup_orchestrator(store.folder, store.config.logging)
        with watched(store.folder, store.config.memory.sample_interval_s):
            yield


def unfinished(config: RunConfig, *, interrupted: bool = True) -> RunStore | None:
    """The newest unfinished run of just this config, held by another process or not.

    One that was cancelled, suspended or deleted is left alone: who wants it names it.

    Args:
        config: the wanted config.
        interrupted: whether one that was ended by Ctrl-C goes on.
    """
    for store in RunStore.list_runs(config.outputs_dir, all_needed=True):
        if store.info.config_digest != settled_like(config, store.config).digest or is_finished(store):
            continue
        will = store.stopped
        if will is not None and not (interrupted and will.what == "interrupted"):
            logger.info("run {} is left alone, {}; it goes on by: zk0 resume", store.info.name, will.words)
            continue
        return RunStore.create_or_open(settled_like(config, store.config), store.info.name)
    return None


def new_name(stem: str) -> str:
    """A name with the time in it."""
    plain = re.sub(r"[^a-z0-9]", "-", stem.lower())[:LONGEST_STEM].strip("-")
    return f"{plain or 'run'}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"


def stem_of(config: str | Path | None) -> str:
    """What the name of a run of this config begins with."""
    return Path(config or "sim").stem


def choose_run(
    config: str, overrides: list[str], name: str | None, *, by_hand: bool = True, suggested: str | None = None
) -> RunStore:
    """The run that a start by words means: a run directory, or what `begin` makes of a config; it waits its turn.

    Args:
        config: a run directory, or what names a config.
        overrides: single keys of the config.
        name: see `begin`.
        by_hand: whether a person starts it, who may go on with what a person stopped.
        suggested: a name that a form filled in, which a person may have left as it was: an unfinished run of the config
            goes on before a new one of that name begins.

    Raises:
        RunNameError: a person stopped that run, and a schedule starts it.
        BadInputError: see `begin`.
    """
    if is_run(config):
        return RunStore.open(config) if by_hand else _not_stopped(RunStore.open(config))
    wanted = load_config(config, overrides)
    if name is not None and not by_hand and RunStore.exists(wanted.outputs_dir, name):
        _not_stopped(RunStore.open(wanted.outputs_dir, name))
    return begin(wanted, name, stem_of(config), wait=True, suggested=suggested)


def folder_of(config: str, overrides: Sequence[str]) -> str:
    """The folder of runs that a start by words means; see `choose_run`."""
    if is_run(config):
        return str(Path(config).parent)
    return load_config(config, overrides).outputs_dir


def _not_stopped(store: RunStore) -> RunStore:
    if (will := store.stopped) is not None:
        name = store.info.name
        raise RunNameError(f"run {name!r} stands still, {will.words}; it goes on by `zk0 resume {name}`")
    return store
