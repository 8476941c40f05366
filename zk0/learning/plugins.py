"""Policies that are not LeRobot's own: registered by whoever's package, in every process that builds one."""

import importlib
from functools import cache

from lerobot.configs.parser import load_plugin
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.factory import get_policy_class
from lerobot.utils.import_utils import register_third_party_plugins

from zk0.config import PolicyConfig
from zk0.errors import ConfigError, first_line


def load_plugins(policy: PolicyConfig) -> None:
    """Let packages register their policies: those that are installed as LeRobot's plug-ins, and `policy.plugin`.

    Raises:
        ConfigError: policy.plugin cannot be imported.
    """
    _load_installed()
    if policy.plugin is not None:
        _load(policy.plugin)


def check_plugin(policy: PolicyConfig, config: PreTrainedConfig) -> None:
    """Find the class of a plug-in's policy where LeRobot will look for it, once a fit begins.

    Raises:
        ConfigError: it is not there.
    """
    if policy.plugin is None:
        return
    try:
        get_policy_class(config.type)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"policy.plugin = {policy.plugin!r}: LeRobot finds no policy of type {config.type!r} by it "
            f"({first_line(error)}); name its modules and classes as LeRobot does, or correct policy.plugin"
        ) from error


@cache
def _load_installed() -> None:
    """As `lerobot-train` does: distributions named `lerobot_policy_*` and the like; what fails is in the log."""
    register_third_party_plugins()


@cache
def _load(plugin: str) -> None:
    try:
        if hasattr(importlib.import_module(plugin), "__path__"):
            load_plugin(plugin)  # a package, and all its modules
    except Exception as error:  # whatever a plug-in raises; LeRobot's own error for it is a bare Exception
        raise ConfigError(
            f"policy.plugin = {plugin!r}: cannot be imported ({type(error).__name__}: {first_line(error)}); install "
            "its package wherever clients train, or correct the name"
        ) from error
