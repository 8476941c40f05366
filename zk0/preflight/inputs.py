"""Whether a dataset gives what a policy needs."""

from collections.abc import Iterable
from typing import Any

from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata

from zk0.errors import PolicyError
from zk0.learning.policy import policy_features


def check_names(config: PreTrainedConfig, meta: LeRobotDatasetMetadata, rename_map: dict[str, str], who: str) -> None:
    """Refuse a dataset that lacks a camera or another feature that the policy needs.

    Raises:
        PolicyError: names the dataset, the feature, both sides and the key to change.
    """
    features = policy_features(meta, rename_map)
    unknown = sorted(set(rename_map) - set(meta.features))
    if unknown:
        raise PolicyError(f"dataset {who!r}: rename_map names {unknown[0]!r}, but it has {_names(meta.features)}")
    for key in missing_inputs(config, features):
        raise PolicyError(
            f"dataset {who!r}: the policy needs {key!r}, the dataset has {_names(features)}; map one to it by "
            f"rename_map, such as {{{_spare(features, config)!r} = {key!r}}}, or choose another base"
        )


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
    """Refuse a dataset whose states or actions have another number of dimensions than the policy.

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
        if key in features:
            _check_dimension(config, who, key, wanted.shape, features[key].shape)


def _check_dimension(
    config: PreTrainedConfig, who: str, key: str, wanted: tuple[int, ...], found: tuple[int, ...]
) -> None:
    if tuple(wanted) != tuple(found):
        raise PolicyError(
            f"dataset {who!r}: {key!r} has {found[0]} dimensions, the policy ({config.type}) was made for {wanted[0]}; "
            "use a dataset of the same robot, or another base"
        )


def _names(features: dict[str, Any]) -> str:
    return ", ".join(sorted(key for key in features if key.startswith(("observation.", "action"))))


def _spare(features: dict[str, Any], config: PreTrainedConfig) -> str:
    spare = [
        key for key in features if key.startswith("observation.images.") and key not in (config.input_features or {})
    ]
    return spare[0] if spare else "observation.images.<yours>"
