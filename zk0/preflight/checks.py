"""What is settled and tried before anything of a run is written: the device, every dataset, every environment."""

from pathlib import Path

import torch

from zk0.config import RunConfig
from zk0.data.datasets import open_metadata, split_episodes
from zk0.data.findings import DataReport
from zk0.data.fix import without_doubled_frames
from zk0.errors import ConfigError, PolicyError, Zk0Error, first_line
from zk0.learning.policy import Policy, base_config, base_path, build_policy
from zk0.preflight import environments, fetch
from zk0.preflight.datasets import refuse, report
from zk0.preflight.records import Preflight

UNKNOWN_BASE_BYTES = 2 * 2**30
"""Assumed size of a base that is not on this disk yet: SmolVLA's 450 M parameters in fp32."""


def preflight(config: RunConfig) -> Preflight:
    """Check every dataset against the base before anything is written, and settle what the machine decides.

    Raises:
        ConfigError: policy.device asks for a GPU that is not there.
        DatasetError, PolicyError: the first thing that would fail in training.
    """
    config = _settle_device(config)
    found = report(config, every_frame=False)
    refuse(found)
    return Preflight(
        config=config,
        frames=found.frames,
        training_frames=_training_frames(config),
        exchanged_bytes=_exchanged_bytes(config),
        warnings=[str(item) for item in found.of("warning")],
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
    """Check every dataset, and every frame of it, against each other and the base; what lies on the hub is fetched.

    Args:
        config: the config.
        fix_to: where to write corrected copies of the datasets with doubled frames, which are then checked instead.

    Raises:
        ConfigError: as `preflight`; or a copy's folder exists.
        DatasetError, PolicyError: something cannot be fetched, or the base cannot be read.
    """
    config = _settle_device(config)
    fetch.fetch_datasets(config)
    if fix_to is not None:
        config = without_doubled_frames(config, fix_to)
    return report(config, every_frame=True)


def _settle_device(config: RunConfig) -> RunConfig:
    """Replace `auto` by what is there: a run must not change its device half-way."""
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
