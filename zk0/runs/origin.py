"""The run and round that `continue_from` names."""

from loguru import logger

from zk0.config import LATEST, RunConfig
from zk0.errors import ConfigError, DamageError, RunNameError
from zk0.runs.store import RunStore
from zk0.work.records import ArtifactRef


def settle_origin(config: RunConfig, name: str) -> RunConfig:
    """Replace `continue_from` by the run and round that it means now, so that the config says all of the run.

    A run that exists keeps what it was settled to.

    Args:
        config: the wanted config.
        name: the run that is to begin, which is never its own origin.

    Raises:
        ConfigError: the run that `continue_from` names is not there, has no such round, or is of another kind.
        StorageError: a run there cannot be read now.
    """
    wanted = config.continue_from
    if wanted is None:
        return config
    known = {store.info.name: store for store in RunStore.list_runs(config.outputs_dir, all_needed=True)}
    if name in known:
        return settled_like(config, known[name].config)
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
        StorageError: they cannot be read now.
    """
    name, _, number = str(config.continue_from).partition("@")
    try:
        store = RunStore.open(config.outputs_dir, name)
        return store, store.state(int(number)).arrays
    except (RunNameError, DamageError) as error:
        raise ConfigError(f"continue_from = {config.continue_from!r}: {error}; name a round that is whole") from error


def settled_like(config: RunConfig, other: RunConfig) -> RunConfig:
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
