"""LeRobot's simulated environments, made from the config."""

import dataclasses
import os
from typing import NoReturn

import draccus
from draccus.utils import DecodingError
from lerobot.configs.parser import load_plugin
from lerobot.envs.configs import EnvConfig

from zk0.config import EnvironmentConfig
from zk0.errors import ConfigError, first_line

DRAWING = ("egl", "opengl", "glget", "mujoco_gl", "osmesa", "glx", "glfw", "display")
"""Words by which an error is known to be about drawing without a screen."""


def env_config(environment: EnvironmentConfig) -> EnvConfig:
    """LeRobot's config of an environment; its plug-in is imported.

    Raises:
        ConfigError: names the key, its value and the remedy.
    """
    if environment.plugin is not None:
        try:
            load_plugin(environment.plugin)
        except Exception as error:  # noqa: BLE001 - whatever a plug-in raises; LeRobot's own error for it is a bare Exception
            remedy = drawing_remedy(error) or "install it where zk0 is started, or correct the name"
            refuse_environment(environment, "plugin", f"cannot be imported ({first_line(error)}); {remedy}", error)
    known = EnvConfig.get_known_choices()
    if environment.type not in known:
        there = ", ".join(sorted(known))
        refuse_environment(
            environment,
            "type",
            f"no such environment is registered (there are {there}); correct it, or name the package that registers it "
            "as plugin, such as zk0.sim for zk0_so101",
        )
    chosen = EnvConfig.get_choice_class(environment.type)
    try:
        return draccus.decode(chosen, environment.options)
    except draccus.ParsingError as error:
        fields = ", ".join(field.name for field in dataclasses.fields(chosen))
        ours = isinstance(error, DecodingError)  # else what the config's own checks said is its cause
        why = first_line(error if ours else error.__cause__ or error)
        refuse_environment(environment, "options", f"{chosen.__name__} refuses them: {why}; it has {fields}", error)


def refuse_environment(
    environment: EnvironmentConfig, key: str, why: str, error: BaseException | None = None
) -> NoReturn:
    """Refuse a key of an environment.

    Raises:
        ConfigError: always; names the key, its value and why.
    """
    value = getattr(environment, key)
    raise ConfigError(f"evaluation.environments.{environment.name}.{key} = {value!r}: {why}") from error


def drawing_remedy(error: BaseException) -> str:
    """What to do where the error is about drawing; nothing where it is about something else."""
    if not any(word in str(error).lower() for word in DRAWING):
        return ""
    return (
        f"it draws without a screen by MUJOCO_GL = {os.environ.get('MUJOCO_GL')!r}: install that library (egl: "
        "Debian's libegl1, osmesa: libosmesa6), or set MUJOCO_GL to the other one"
    )
