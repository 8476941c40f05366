"""What LeRobot's policies need of a dataset that their configs do not say: they would fail later, in other words."""

from collections.abc import Mapping

from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType
from lerobot.utils.constants import OBS_IMAGE, REWARD

ONLY_BY_REINFORCEMENT = ("gaussian_actor",)
"""Policy types that LeRobot's training on recordings cannot build."""


def unmet(config: PreTrainedConfig, given: Mapping[str, str], renames: Mapping[str, str]) -> str | None:
    """Why a policy cannot learn from a dataset, or not act after it, and what to do; None where nothing is known.

    Args:
        config: LeRobot's config of the policy.
        given: the dataset's features, and of which kind each is.
        renames: its rename_map.
    """
    if config.type in ONLY_BY_REINFORCEMENT:
        return (
            f"LeRobot trains {config.type} by reinforcement (lerobot.rl) alone, not on recordings; take another policy"
        )
    if config.reward_delta_indices and REWARD not in given:
        return (
            f"the policy ({config.type}) learns from rewards, and the dataset has no {REWARD!r}; record them, or take "
            "another policy"
        )
    inputs = config.input_features or {}
    cameras = [key for key, feature in inputs.items() if feature.type is FeatureType.VISUAL]
    if config.type == "tdmpc" and cameras and cameras[0] != OBS_IMAGE:
        source = next((name for name, new in renames.items() if new == cameras[0]), cameras[0])
        return (
            f"LeRobot's tdmpc acts by a camera that is called {OBS_IMAGE!r}, and its camera is {cameras[0]!r}; rename "
            f'it: rename_map = {{ "{source}" = "{OBS_IMAGE}" }}'
        )
    others = [key for key, item in inputs.items() if item.type not in (FeatureType.VISUAL, FeatureType.STATE)]
    if config.type == "vqbet" and others:
        return (
            f"LeRobot's vqbet reads a camera and the state alone, and fails on {others[0]!r} when it acts; name the "
            "camera and the state in policy.overrides.input_features, or take another policy"
        )
    return None
