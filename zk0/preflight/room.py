"""Whether there is memory for a policy at all: its weights are counted before any of them is there."""

import copy
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.policies import make_policy

from zk0.errors import ConfigError
from zk0.learning.build import named_policy
from zk0.memory.cgroup import of_process
from zk0.memory.usage import gib

META = "meta"
"""torch's device of tensors that have a shape and no memory."""
FETCHED = {"pretrained_backbone_weights": None, "load_vlm_weights": False}
"""Fields of LeRobot's configs that make a policy load weights of others, and what leaves these as they are made."""
UNPACKED = 8
"""Times that what a file of weights holds may take in memory: float32 for a type of one byte, and its gradients."""


class Size(NamedTuple):
    """What a policy takes before any batch."""

    parameters: int
    held: int
    """Bytes of its weights."""
    trained: int
    """Bytes of those that are trained, and so of their gradients."""


def check_room(
    config: PreTrainedConfig, meta: LeRobotDatasetMetadata, rename_map: dict[str, str], *, adapters: bool
) -> None:
    """Refuse a policy that cannot be held and trained with what is free: the kernel would kill who builds it.

    Args:
        config: LeRobot's config of the policy.
        meta: of the dataset that it is for.
        rename_map: feature of that dataset -> policy feature.
        adapters: whether these are trained in the place of the weights.

    Raises:
        ConfigError: names the policy, both sizes and what to do.
    """
    rooms = _rooms(config)
    stored = None if config.use_peft else _stored(config.pretrained_path)  # an adapter is the least of it
    if stored is not None and all(stored * UNPACKED < free for free, _, _ in rooms):
        return
    if (size := counted(config, meta, rename_map)) is None:
        return
    for free, whose, trains in rooms:
        needed = size.held + (size.trained if trains and not adapters else 0)
        if needed > free:
            gradients = " and their gradients" if needed > size.held else ""
            raise ConfigError(
                f"memory: {named_policy(config)} has {size.parameters / 1e6:,.0f} million parameters: its weights"
                f"{gradients} are {gib(needed)}, and {gib(free)} {whose} are free; take a smaller policy, or a machine "
                "with more memory"
            )


def counted(config: PreTrainedConfig, meta: LeRobotDatasetMetadata, rename_map: dict[str, str]) -> Size | None:
    """What a policy takes, without building it; None where its code does not build on a device without memory."""
    wanted = copy.copy(config)
    wanted.device, wanted.pretrained_path, wanted.use_peft = META, None, False
    for key, value in FETCHED.items():
        if hasattr(wanted, key):
            setattr(wanted, key, value)
    try:
        with torch.device(META):
            policy = make_policy(wanted, ds_meta=meta, rename_map=rename_map)
    except Exception:  # noqa: BLE001 - whatever a policy's own code raises, of a build that only counts
        return None
    weights = list(policy.parameters())
    return Size(
        sum(item.numel() for item in weights),
        _bytes([*weights, *policy.buffers()]),
        _bytes([item for item in weights if item.requires_grad]),
    )


def _bytes(tensors: list[torch.Tensor]) -> int:
    return sum(item.numel() * item.element_size() for item in tensors)


def _stored(path: str | Path | None) -> int | None:
    """Bytes of the weights' files; None where there are none here."""
    files = list(Path(path).glob("*.safetensors")) if path is not None else []
    return sum(file.stat().st_size for file in files) if files else None


def _rooms(config: PreTrainedConfig) -> list[tuple[int, str, bool]]:
    """What is free, in bytes; whose it is; and whether the policy is trained there, or only built."""
    on_gpu = str(config.device).startswith("cuda")
    free, whose = psutil.virtual_memory().available, "of this machine"
    group = of_process()
    usage = group.usage() if group else None
    if usage is not None and usage[1] - usage[0] < free:
        free, whose = usage[1] - usage[0], "of the cgroup"
    gpu = [(torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved(), "of the GPU", True)] if on_gpu else []
    return [(free, whose, not on_gpu), *gpu]
