"""The policy's processors: LeRobot's own."""

from typing import Any

from lerobot.processor import make_default_pre_post_processors

from zk0_example.policy.configuration_example_mlp import ExampleMlpConfig


def make_example_mlp_pre_post_processors(config: ExampleMlpConfig, dataset_stats: Any = None) -> Any:
    """Normalise the positions, and the actions back."""
    return make_default_pre_post_processors(config, dataset_stats, normalizer_device=config.device)
