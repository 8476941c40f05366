"""What is settled and tried before anything of a run is written: the device, every dataset, every environment."""

from pathlib import Path

import torch

from zk0.config import RunConfig
from zk0.data import fix
from zk0.data.datasets import open_metadata, split_episodes
from zk0.data.findings import DataReport
from zk0.errors import ConfigError, first_line
from zk0.learning.policy import base_config
from zk0.preflight import environments, fetch, probe, trials
from zk0.preflight.between import together
from zk0.preflight.datasets import examine, refuse, report
from zk0.preflight.records import Examined, Preflight
from zk0.preflight.trial import Trial, check_room_for, tried
from zk0.preflight.trials import Tried


def preflight(config: RunConfig, examined: list[Examined] | None = None, *, in_container: bool = False) -> Preflight:
    """Check every dataset and the policy before anything is written.

    Args:
        config: the config.
        examined: what was found in the datasets of the settled config; they are looked at here where None.
        in_container: whether fits will be in containers, whose memory is bounded.

    Raises:
        ConfigError: as `settle`, or memory for one frame is lacking.
        DatasetError, PolicyError: the first thing that would fail in training.
    """
    config = settle(config)
    fetch.fetch_policy(config)
    if examined is None:
        examined = [examine(config, dataset, every_frame=False) for dataset in config.datasets]
    found = together(config, examined)
    refuse(found)
    files = {dataset.name: item.files for dataset, item in zip(config.datasets, examined, strict=True) if item.files}
    tried = _tried(config, files)
    memory = None
    if config.memory.probe and tried.step is not None:
        memory = probe.estimate(config, tried.step, in_container=in_container)
    return Preflight(
        config=config,
        frames=found.frames,
        training_frames=_training_frames(config),
        exchanged_bytes=tried.exchanged_bytes,
        base_bytes=tried.base_bytes,
        warnings=[*(str(item) for item in found.of("warning")), *tried.warnings],
        files=files,
        memory=memory,
    )


def _tried(config: RunConfig, files: dict[str, dict[str, str]]) -> Tried:
    """What came of trying the policy, now or before with the same of everything."""
    key = trials.key_of(config, files)
    if (found := trials.recall(key, probe=config.memory.probe)) is not None:
        check_room_for(config)
        return found
    trial = try_policy(config)
    step = probe.step_of(config, trial) if config.memory.probe else None
    tried = Tried(
        exchanged_bytes=trial.exchanged_bytes, base_bytes=trial.base_bytes, warnings=trial.warnings, step=step
    )
    trials.remember(key, tried)
    return tried


def _training_frames(config: RunConfig) -> dict[str, int]:
    """Client -> frames of its training episodes."""
    counts = {}
    for client in config.clients:
        meta = open_metadata(client)
        episodes, _ = split_episodes(meta.total_episodes, config.evaluation.holdout_episodes)
        counts[client.name] = sum(meta.episodes["length"][: len(episodes)])
    return counts


def check_environments(config: RunConfig) -> None:
    """Try every simulated environment with the policy's inputs and actions.

    Raises:
        ConfigError: the first thing that would fail.
        DatasetError, PolicyError: the base cannot be read.
    """
    environments.check(config, base_config(config, open_metadata(config.clients[0])))


def check_data(config: RunConfig, fix_to: Path | None = None) -> DataReport:
    """Check every dataset, and every frame of it, against each other and the base, in this process.

    Args:
        config: the config.
        fix_to: as `ready`.

    Raises:
        ConfigError, DatasetError, PolicyError: as `ready` and `try_policy`; or the base cannot be read.
    """
    config = ready(config, fix_to)
    found = report(config, every_frame=True)
    if found.of("error"):
        return found
    return found.model_copy(update={"findings": [*found.findings, *try_policy(config).findings()]})


def ready(config: RunConfig, fix_to: Path | None = None) -> RunConfig:
    """A config whose datasets are all here, to be looked at: what lies on the hub is fetched.

    Args:
        config: the config.
        fix_to: where to write corrected copies of datasets: of an older format, with doubled frames or with statistics
            that are not those of their rows; they are then checked instead.

    Returns:
        The config, settled, with the copies in the place of their originals.

    Raises:
        ConfigError: as `settle`; or a copy's folder exists.
        DatasetError, PolicyError: something cannot be fetched.
    """
    config = settle(config)
    fetch.fetch_policy(config)
    if fix_to is not None:
        config = fix.converted(config, fix_to)
    fetch.fetch_datasets(config)
    return config if fix_to is None else fix.corrected(config, fix_to)


def settle(config: RunConfig) -> RunConfig:
    """Replace `auto` by what is there: a run must not change its device half-way.

    Raises:
        ConfigError: policy.device asks for a GPU that is not there, or training.amp for one.
    """
    if config.policy.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("policy.device = 'cuda': torch sees no GPU; check `nvidia-smi`, or use 'cpu' or 'auto'")
    device = config.policy.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if config.training.amp == "fp16" and device == "cpu":
        raise ConfigError(
            "training.amp = 'fp16': needs a GPU (policy.device is 'cpu' here), for accelerate would train in full "
            "precision without a word; use 'bf16' or 'no'"
        )
    return config.model_copy(update={"policy": config.policy.model_copy(update={"device": device})})


def try_policy(config: RunConfig) -> Trial:
    """Build the policy of a config whose datasets are in order, and try it: see `trial.tried`.

    Raises:
        ConfigError: memory for one frame is lacking.
        DatasetError, PolicyError: the first thing that would fail.
    """
    try:
        return tried(config)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ConfigError(
            f"memory: the policy cannot be built and try one frame ({first_line(error)}); free some memory, or use a "
            "smaller policy"
        ) from error
