"""What is settled and tried before anything of a run is written: the device, every dataset, every environment."""

from pathlib import Path

import torch

from zk0.config import RunConfig
from zk0.data import fix
from zk0.data.datasets import open_metadata, split_episodes
from zk0.data.findings import DataReport
from zk0.errors import ConfigError, PolicyError, Zk0Error, first_line
from zk0.learning.policy import Policy, base_config, base_path, build_policy
from zk0.preflight import environments, fetch
from zk0.preflight.between import together
from zk0.preflight.datasets import examine, refuse, report
from zk0.preflight.records import Examined, Preflight

UNKNOWN_BASE_BYTES = 2 * 2**30
"""Assumed size of a base that is not on this disk yet: SmolVLA's 450 M parameters in fp32."""


def preflight(config: RunConfig, examined: list[Examined] | None = None) -> Preflight:
    """Check every dataset and the base before anything is written.

    Args:
        config: the config.
        examined: what was found in the datasets of the settled config; they are looked at here where None.

    Raises:
        ConfigError: as `settle`.
        DatasetError, PolicyError: the first thing that would fail in training.
    """
    config = settle(config)
    if examined is None:
        examined = [examine(config, dataset, every_frame=False) for dataset in config.datasets]
    found = together(config, examined)
    refuse(found)
    files = {dataset.name: item.files for dataset, item in zip(config.datasets, examined, strict=True) if item.files}
    return Preflight(
        config=config,
        frames=found.frames,
        training_frames=_training_frames(config),
        exchanged_bytes=_exchanged_bytes(config),
        warnings=[str(item) for item in found.of("warning")],
        files=files,
    )


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
        ConfigError, DatasetError, PolicyError: as `ready`; or the base cannot be read.
    """
    return report(ready(config, fix_to), every_frame=True)


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


def _exchanged_bytes(config: RunConfig) -> int:
    """Upper estimate from the base's file: adapters of the usual ranks stay below a twentieth of their base."""
    if config.policy.path is None:
        return sum(value.nbytes for value in _from_scratch(config).parameters() if value.requires_grad)
    weights = Path(base_path(config.policy, Path())) / "model.safetensors"
    base = weights.stat().st_size if weights.is_file() else UNKNOWN_BASE_BYTES
    return base // 20 if config.peft.enabled else base


def _from_scratch(config: RunConfig) -> Policy:
    """The policy that round 0 will make: what it would fail on shows now."""
    first = config.clients[0]
    meta = open_metadata(first)
    base = base_config(config, meta)
    try:
        return build_policy(base, config.peft, meta, first.rename_map)
    except (Zk0Error, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # whatever a policy raises, LeRobot's own or a plug-in's
        raise PolicyError(
            f"policy.type = {config.policy.type!r}: cannot be made for the data of client {first.name!r} "
            f"({type(error).__name__}: {first_line(error)}); correct policy.overrides, or use another type"
        ) from error
