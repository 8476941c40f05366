"""From a config to a run directory: which run a start means, and what is checked before a new one is made."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from loguru import logger

from zk0 import findings
from zk0.config import LATEST, RunConfig
from zk0.errors import ConfigError, RunNameError, StorageError
from zk0.memory import gib
from zk0.records import ArtifactRef, MemoryEstimate, Preflight
from zk0.run_store import RunStore, check_free_space

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
            findings.expect(store.folder, client.name, "train", size, _expectation(config, checked.memory))
    return store


def fitting_micro_batch(config: RunConfig, estimate: MemoryEstimate | None) -> int | None:
    """The largest halving of the config's micro-batch that is expected to fit; None where it fits as it is.

    Raises:
        ConfigError: not even one frame at once is expected to fit; says what is needed and what is there.
    """
    whole = config.training.micro_batch_size or config.training.batch_size
    if estimate is None or estimate.fits(whole):
        return None
    size = whole
    while size and not estimate.fits(size):
        size //= 2
    if not size:
        raise ConfigError(
            f"memory: a fit needs about {gib(estimate.fixed + estimate.per_frame)} even with one frame at once, and "
            f"may use {gib(estimate.budget)} {estimate.whose}; free some memory, lower executor.max_parallel, or raise "
            "memory.soft_limit, or executor.docker.mem_limit where it is set"
        )
    logger.warning(
        "{} frames at once are expected to need {}, and a fit may use {} {}: it will be done in micro-batches of {}",
        *(whole, gib(estimate.fixed + whole * estimate.per_frame), gib(estimate.budget), estimate.whose, size),
    )
    return size


def _expectation(config: RunConfig, estimate: MemoryEstimate) -> findings.Note:
    whole = config.training.micro_batch_size or config.training.batch_size
    need = gib(estimate.fixed + whole * estimate.per_frame)
    return findings.note(whole, 0, f"estimate before the run: needs {need}, of {gib(estimate.budget)} {estimate.whose}")


def is_finished(store: RunStore) -> bool:
    """Whether every round is committed and the final policy written."""
    return store.config.federation.num_rounds in store.committed_rounds() and (store.folder / "final").is_dir()


def unfinished(config: RunConfig) -> RunStore | None:
    """The newest unfinished run of just this config, held by another process or not."""
    for store in RunStore.list_runs(config.outputs_dir):
        if store.info.config_digest == _settled_like(config, store.config).digest and not is_finished(store):
            return RunStore.create_or_open(_settled_like(config, store.config), store.info.name)
    return None


def new_name(stem: str) -> str:
    """A name with the time in it."""
    plain = "".join(letter if letter.isalnum() else "-" for letter in stem.lower()).strip("-")
    return f"{plain or 'run'}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"


def settle_origin(config: RunConfig, name: str) -> RunConfig:
    """Replace `continue_from` by the run and round that it means now, so that the config says all of the run.

    A run that exists keeps what it was settled to.

    Args:
        config: the wanted config.
        name: the run that is to begin, which is never its own origin.

    Raises:
        ConfigError: the run that `continue_from` names is not there, has no such round, or is of another kind.
    """
    wanted = config.continue_from
    if wanted is None:
        return config
    known = {store.info.name: store for store in RunStore.list_runs(config.outputs_dir)}
    if name in known:
        return _settled_like(config, known[name].config)
    if wanted == LATEST:
        return config.model_copy(update={"continue_from": _latest(config, known)})
    origin, _, number = wanted.partition("@")
    if origin not in known:
        there = ", ".join(known) or "none"
        raise ConfigError(f"continue_from = {wanted!r}: no such run in {config.outputs_dir}; runs there: {there}")
    _check_kind(config, known[origin])
    rounds = known[origin].committed_rounds()
    if not rounds or (number and int(number) not in rounds):
        kept = ", ".join(map(str, rounds)) or "none"
        raise ConfigError(f"continue_from = {wanted!r}: no such round; committed and kept: {kept}")
    return config.model_copy(update={"continue_from": f"{origin}@{number or rounds[-1]}"})


def origin_tensors(config: RunConfig) -> tuple[RunStore, ArtifactRef]:
    """The global tensors that a settled `continue_from` names, verified.

    Raises:
        ConfigError: they are gone or damaged.
    """
    name, _, number = str(config.continue_from).partition("@")
    try:
        store = RunStore.open(config.outputs_dir, name)
        return store, store.state(int(number)).arrays
    except (RunNameError, StorageError) as error:
        raise ConfigError(f"continue_from = {config.continue_from!r}: {error}; name a round that is whole") from error


def _settled_like(config: RunConfig, other: RunConfig) -> RunConfig:
    """The config with what it leaves open (device, origin) as `other` has it, where that is one way to settle it."""
    changes: dict[str, object] = {}
    if config.policy.device == "auto":
        changes["policy"] = config.policy.model_copy(update={"device": other.policy.device})
    wanted, settled = config.continue_from, other.continue_from
    if wanted == LATEST or (wanted and settled and "@" not in wanted and settled.startswith(f"{wanted}@")):
        changes["continue_from"] = settled
    return config.model_copy(update=changes)


def _latest(config: RunConfig, known: dict[str, RunStore]) -> str | None:
    """`name@round` of the newest run of the same kind that has trained; None where there is none."""
    for store in known.values():
        rounds = store.committed_rounds()
        if rounds and rounds[-1] > 0 and not _differences(config, store.config):
            return f"{store.info.name}@{rounds[-1]}"
    logger.info("continue_from = {!r}: no run of this kind has trained yet; starting from the base", LATEST)
    return None


def _check_kind(config: RunConfig, origin: RunStore) -> None:
    if differing := _differences(config, origin.config):
        raise ConfigError(
            f"continue_from = {config.continue_from!r}: that run exchanges other tensors ({', '.join(differing)}); "
            "give the same keys here, or another run"
        )


def _differences(config: RunConfig, origin: RunConfig) -> list[str]:
    """Keys that decide which tensors are exchanged and what they mean, and that differ."""
    without = {"policy": {"device"}, "peft": {"aggregation"}}
    ours = config.model_dump(include={*without}, exclude=without)
    theirs = origin.model_dump(include={*without}, exclude=without)
    return [
        f"{part}.{key} is {theirs[part][key]!r} there, {value!r} here"
        for part, keys in ours.items()
        for key, value in keys.items()
        if theirs[part][key] != value
    ]


def stem_of(config: str | Path | None) -> str:
    """What the name of a run of this config begins with."""
    return Path(config or "sim").stem
