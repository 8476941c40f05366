"""A `pretrained_model` folder as LeRobot loads it."""

from pathlib import Path

from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies import PreTrainedPolicy, make_pre_post_processors
from lerobot.policies.factory import get_policy_class

from zk0.config import PolicyConfig
from zk0.learning.plugins import load_plugins
from zk0.learning.policy import Processor


def load_pretrained(
    folder: Path, policy: PolicyConfig, device: str | None = None
) -> tuple[PreTrainedPolicy, Processor, Processor]:
    """The policy of a folder whose adapters are merged, in evaluation mode, and its processors.

    Args:
        folder: with config.json, model.safetensors and the processors.
        policy: names the plug-in that it may need.
        device: where it is to be; that of its config when None.
    """
    load_plugins(policy)
    config = PreTrainedConfig.from_pretrained(folder)
    config.device = device or config.device
    loaded: PreTrainedPolicy = get_policy_class(config.type).from_pretrained(folder, config=config)
    preprocessor, postprocessor = make_pre_post_processors(
        config, str(folder), preprocessor_overrides={"device_processor": {"device": config.device}}
    )
    return loaded.eval(), preprocessor, postprocessor
