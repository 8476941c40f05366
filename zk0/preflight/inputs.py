"""Whether a dataset gives what a policy needs."""

from collections.abc import Iterable
from typing import Any, NoReturn

import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.processor import NormalizerProcessorStep, UnnormalizerProcessorStep
from lerobot.utils.constants import ACTION, DEFAULT_FEATURES

from zk0.config import RunConfig
from zk0.errors import PolicyError
from zk0.learning.policy import ROOM, Processor, load_policy_config, policy_features, room_for, source_path
from zk0.learning.processors import build_processors
from zk0.preflight.needs import unmet
from zk0.preflight.renames import STATE, VISUAL, proposal, wrong_rename


def check_names(config: PreTrainedConfig, meta: LeRobotDatasetMetadata, rename_map: dict[str, str], who: str) -> None:
    """Refuse a dataset that lacks a camera or another thing that the policy needs, or whose rename_map loses one.

    Raises:
        PolicyError: names the dataset, the feature, both sides and the key to change.
    """
    given = {key: _kind(key, value["dtype"]) for key, value in meta.features.items() if key not in DEFAULT_FEATURES}
    if why := wrong_rename(rename_map, given, config):
        raise PolicyError(f"dataset {who!r}: {why}")
    if why := unmet(config, given, rename_map):
        raise PolicyError(f"dataset {who!r}: {why}")
    features = policy_features(meta, rename_map)
    for key in missing_inputs(config, features):
        raise PolicyError(
            f"dataset {who!r}: the policy needs {key!r}, the dataset has {_names(features)}; "
            + proposal(key, rename_map, given, config)
        )


def _kind(key: str, dtype: str) -> str:
    if key == ACTION:
        return "the action"
    return VISUAL if dtype in ("image", "video") else STATE


def missing_inputs(config: PreTrainedConfig, given: Iterable[str]) -> list[str]:
    """The inputs that the policy needs and does not find among the given features, under its own names."""
    features = set(given)
    cameras = [key for key, value in (config.input_features or {}).items() if value.type is FeatureType.VISUAL]
    # SmolVLA and its kin mask cameras that a dataset lacks, as long as one of theirs is there; ACT needs them all.
    may_lack = hasattr(config, "empty_cameras") and any(key in features for key in cameras)
    wanted = [key for key in config.input_features or {} if key not in features]
    return [key for key in wanted if not (key in cameras and may_lack)]


def check_dimensions(
    config: PreTrainedConfig, meta: LeRobotDatasetMetadata, rename_map: dict[str, str], who: str
) -> None:
    """Refuse a dataset whose states or actions have another number of dimensions than the policy, or than it has room.

    Args:
        config: LeRobot's config of the policy, which has the first client's number where it pads: `base_config`.
        meta: of the dataset.
        rename_map: its feature -> policy feature.
        who: its name.

    Raises:
        PolicyError: as `check_names`.
    """
    features = policy_features(meta, rename_map)
    inputs = {
        key: value
        for key, value in (config.input_features or {}).items()
        if value.type in (FeatureType.STATE, FeatureType.ENV)
    }
    for key, wanted in {**inputs, **(config.output_features or {})}.items():
        if key in features and tuple(wanted.shape) != tuple(features[key].shape):
            _refuse_dimension(config, who, key, wanted, features[key].shape[0])


def _refuse_dimension(config: PreTrainedConfig, who: str, key: str, wanted: PolicyFeature, found: int) -> NoReturn:
    room = room_for(config, wanted.type)
    if room is None:
        why = (
            f"the policy ({config.type}) was made for {wanted.shape[0]}; use a dataset of the same robot, or another "
            "base"
        )
    elif found > room:
        why = f"the policy ({config.type}) has room for {ROOM[wanted.type]} = {room}; choose a base that has more"
    else:
        why = (
            f"the first client's has {wanted.shape[0]}; all datasets of a run need the same joints: leave one out, or "
            "convert it to the others' joints"
        )
    raise PolicyError(f"dataset {who!r}: {key!r} has {found} dimensions, {why}")


def check_base_statistics(config: RunConfig, base: PreTrainedConfig) -> None:
    """Refuse a base for another number of joints where its own statistics are what normalises.

    Args:
        config: the run's.
        base: LeRobot's config of the policy, with the first client's number of joints.

    Raises:
        PolicyError: names both numbers and the key to change.
    """
    normalization, first = config.data.normalization, config.clients[0]
    if normalization == "federated" or config.policy.path is None:
        return
    before = load_policy_config(config.policy, source_path(config.policy))
    if (before.input_features, before.output_features) == (base.input_features, base.output_features):
        return
    wanted = {**(base.input_features or {}), **(base.output_features or {})}
    for pipeline in build_processors(base, None, first.rename_map):
        for name, value in sorted(_statistics(pipeline).items()):
            key = name.rpartition(".")[0]
            if key in wanted and wanted[key].type in ROOM and value.shape[-1:] != tuple(wanted[key].shape):
                whose = "all data" if normalization == "base" else "what the final policy sees"
                raise PolicyError(
                    f"dataset {first.name!r}: {key!r} has {wanted[key].shape[0]} dimensions, but data.normalization = "
                    f"{normalization!r} normalises {whose} by the base's statistics, which have {value.shape[-1]} "
                    "numbers; use 'federated', or a base for this robot"
                )


def _statistics(pipeline: Processor) -> dict[str, torch.Tensor]:
    """`feature.statistic` -> the numbers that a pipeline normalises by."""
    steps = [item for item in pipeline.steps if isinstance(item, NormalizerProcessorStep | UnnormalizerProcessorStep)]
    return {name: value for step in steps for name, value in step.state_dict().items() if not name.endswith(".count")}


def _names(features: dict[str, Any]) -> str:
    return ", ".join(sorted(key for key in features if key.startswith(("observation.", "action"))))
