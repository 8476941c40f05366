"""From a config to a run directory: which run a start means, and what is checked before a new one is made."""

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from loguru import logger

from zk0.config import RunConfig, load_config
from zk0.federation.before_run import check
from zk0.layout import RUN_FILE
from zk0.memory import client_limits
from zk0.memory.estimate import expectation, fitting_micro_batch
from zk0.preflight.disk import check_free_space
from zk0.preflight.records import Preflight
from zk0.runs.origin import settle_origin, settled_like
from zk0.runs.store import RunStore, is_finished

STATE_SETS = {"fedavgm": 2, "fedadam": 2, "fedyogi": 2}
"""federation.strategy -> sets of tensors that its state is, as large as the exchanged tensors, in every round."""
Check = Callable[[RunConfig], Preflight]
"""Looks at data and policy, in a process that has torch, before anything is written."""
LOG_BYTES = 100 * 2**20
"""Room for logs and metrics that must be free on the disk before a run starts, beside its tensors."""


def new_run(
    config: RunConfig,
    name: str | None,
    stem: str,
    check: Check,
    going_on: Callable[[RunStore], None] = lambda _: None,
) -> RunStore:
    """Check everything, then create the run, or open the unfinished one of the same config.

    Args:
        config: the wanted config.
        name: the run's name; None for an unfinished run of the config, else a new name.
        stem: what a new name begins with.
        check: the checks that need torch, in a process of their own.
        going_on: told of an unfinished run that is taken up because no name was given.

    Raises:
        BadInputError: config, data, policy or name cannot be used; nothing was created.
    """
    checked = check(config)
    for warning in checked.warnings:
        logger.warning("{}", warning)
    if name is None and (found := unfinished(checked.config)) is not None and found.holder() is None:
        going_on(found)
        name = found.info.name
    name = name or new_name(stem)
    config = settle_origin(checked.config, name)
    size = fitting_micro_batch(config, checked.memory)
    # Each kept round, the base, the best and the one under way: global tensors, strategy, every client's update;
    # of each fit under way two checkpoints: the tensors and their two moments.
    state = STATE_SETS.get(config.federation.strategy, 0)
    if config.training.optimizer_state == "keep":
        state += 2 * len(config.clients)
    sets = (config.checkpoint.keep + 3) * (1 + len(config.clients) + state) + 6 * config.executor.places
    check_free_space(config.outputs_dir, sets * checked.exchanged_bytes + LOG_BYTES)
    store = RunStore.create_or_open(config, name)
    if size is not None and checked.memory is not None:
        for client in config.clients:
            client_limits.expect(store.folder, client.name, "train", size, expectation(config, checked.memory))
    return store


def unfinished(config: RunConfig) -> RunStore | None:
    """The newest unfinished run of just this config, held by another process or not."""
    for store in RunStore.list_runs(config.outputs_dir):
        if store.info.config_digest == settled_like(config, store.config).digest and not is_finished(store):
            return RunStore.create_or_open(settled_like(config, store.config), store.info.name)
    return None


def new_name(stem: str) -> str:
    """A name with the time in it."""
    plain = "".join(letter if letter.isalnum() else "-" for letter in stem.lower()).strip("-")
    return f"{plain or 'run'}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"


def stem_of(config: str | Path | None) -> str:
    """What the name of a run of this config begins with."""
    return Path(config or "sim").stem


HOLDER_POLL_S = 2.0


def choose_run(config: str, overrides: list[str], name: str | None) -> RunStore:
    """The run directory that a start means.

    Without a name an unfinished run of the config goes on; where another process has it under way, this one waits for
    its end and then starts the next, so that a start is neither doubled nor lost.
    """
    if (Path(config) / RUN_FILE).is_file():
        return RunStore.open(config)
    wanted = load_config(config, overrides)
    waiting = False
    while name is None and (found := unfinished(wanted)) is not None:
        if (holder := found.holder()) is None:
            return found
        if not waiting:
            logger.info("run {} is under way in process {}: waiting for its end", found.info.name, holder["pid"])
        waiting = True
        time.sleep(HOLDER_POLL_S)

    return new_run(wanted, name, stem_of(config), check)
