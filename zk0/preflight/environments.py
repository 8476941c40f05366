"""The simulated environments of a config: made by LeRobot from [[evaluation.environments]], and tried before a run."""

from typing import Any

import numpy as np
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType
from lerobot.envs import make_env_pre_post_processors, preprocess_observation
from lerobot.envs.configs import EnvConfig
from lerobot.envs.utils import env_to_policy_features
from lerobot.utils.constants import ACTION

from zk0.config import EnvironmentConfig, RunConfig
from zk0.errors import ConfigError, first_line
from zk0.learning.closed_loop import opened
from zk0.learning.environments import drawing_remedy, env_config, refuse_environment
from zk0.preflight.inputs import missing_inputs
from zk0.preflight.renames import STATE, VISUAL, proposal, wrong_rename

PICTURE_DIMENSIONS = 4
"""Of a camera's observation: environments, channels, height, width."""
type VectorEnv = Any
"""Gymnasium's, whose types lack `call`, and the bounds of its spaces."""


def check(config: RunConfig, base: PreTrainedConfig) -> None:
    """Make every environment, one after the other, and act in it: whatever a rollout needs must be there.

    Args:
        config: the run's.
        base: LeRobot's config of the policy.

    Raises:
        ConfigError: names the environment, the key, its value and the remedy.
    """
    for environment in config.evaluation.environments:
        made = env_config(environment)
        try:
            with opened(made) as vector:
                env_to_policy_features(made)
                _check_inputs(environment, base, _first_observation(environment, made, base, vector))
                _check_action(environment, base, vector)
                _check_pictures(environment, vector)
                _check_success(environment, vector)
        except ConfigError:
            raise
        except Exception as error:  # noqa: BLE001 - as mujoco.FatalError and gymnasium's errors, which are bare Exceptions
            remedy = drawing_remedy(error) or "correct type and options, or leave the environment out"
            refuse_environment(
                environment, "type", f"it cannot be made and stepped ({first_line(error)}); {remedy}", error
            )


def _first_observation(
    environment: EnvironmentConfig, made: EnvConfig, base: PreTrainedConfig, vector: VectorEnv
) -> dict[str, Any]:
    """What the policy would see first, under LeRobot's names: name -> tensor of shape (1, ...)."""
    observation, _ = vector.reset(seed=[environment.first_seed])
    before, _ = make_env_pre_post_processors(made, base)
    seen: dict[str, Any] = before(preprocess_observation(observation))
    return {key: value for key, value in seen.items() if key.startswith("observation.")}


def _check_inputs(environment: EnvironmentConfig, base: PreTrainedConfig, seen: dict[str, Any]) -> None:
    renamed, there = environment.rename_map, ", ".join(sorted(seen))
    kinds = {key: VISUAL if value.ndim == PICTURE_DIMENSIONS else STATE for key, value in seen.items()}
    if unknown := sorted(set(renamed) - set(seen)):
        refuse_environment(environment, "rename_map", f"it gives no {unknown[0]!r}; it has {there}")
    if why := wrong_rename(renamed, kinds, base):
        refuse_environment(environment, "rename_map", why)
    given = {renamed.get(key, key): value for key, value in seen.items()}
    for key in missing_inputs(base, given):
        refuse_environment(
            environment,
            "rename_map",
            f"the policy needs {key!r}, the environment gives {there}; {proposal(key, renamed, kinds, base)}, or "
            "change its options",
        )
    for key, feature in (base.input_features or {}).items():
        if feature.type in (FeatureType.STATE, FeatureType.ENV) and tuple(given[key].shape[1:]) != tuple(feature.shape):
            refuse_environment(
                environment,
                "type",
                f"{key!r} has shape {tuple(given[key].shape[1:])}, the policy ({base.type}) was made for "
                f"{tuple(feature.shape)}; take an environment of the same robot, or another base",
            )


def _check_action(environment: EnvironmentConfig, base: PreTrainedConfig, vector: VectorEnv) -> None:
    wanted = (base.output_features or {}).get(ACTION)
    shape = vector.single_action_space.shape
    if wanted is not None and tuple(shape) != tuple(wanted.shape):
        refuse_environment(
            environment,
            "type",
            f"its actions have shape {tuple(shape)}, those of the policy ({base.type}) {tuple(wanted.shape)}; take an "
            "environment of the same robot, or another base",
        )


def _check_pictures(environment: EnvironmentConfig, vector: VectorEnv) -> None:
    """Where videos are wanted it must draw, and say how fast they go."""
    if not environment.videos:
        return
    why = ""
    try:
        picture = np.asarray(vector.call("render")[0])
        if picture.ndim != 3 or picture.shape[-1] != 3:
            why = f"render() gives shape {picture.shape}"
        elif "render_fps" not in vector.metadata:
            why = "its metadata lack render_fps"
    except Exception as error:  # noqa: BLE001 - as above: foreign code, asked for a picture
        why = first_line(error)
    if why:
        refuse_environment(
            environment, "videos", f"it gives no pictures ({why}); set videos = 0, or change its options"
        )


def _check_success(environment: EnvironmentConfig, vector: VectorEnv) -> None:
    """An episode must report `is_success`, at every step or at its end; LeRobot counts silence as failure."""
    space = vector.action_space
    still = np.clip(np.zeros(space.shape, space.dtype), space.low, space.high)
    for _ in range(vector.call("_max_episode_steps")[0]):
        _, _, terminated, truncated, info = vector.step(still)
        last = info.get("final_info")
        if "is_success" in info or (last is not None and "is_success" in (last if isinstance(last, dict) else last[0])):
            return
        if terminated.any() or truncated.any():
            break
    refuse_environment(
        environment, "type", "its episodes do not report `is_success` in info; take an environment that does"
    )
