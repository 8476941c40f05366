"""Build a policy by LeRobot's factories, put LoRA on it by PEFT, and read and write the tensors that travel."""

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lerobot.configs.default import PeftConfig as LeRobotPeftConfig
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.envs.configs import EnvConfig
from lerobot.envs.utils import env_to_policy_features
from lerobot.policies import PreTrainedPolicy, make_policy
from lerobot.policies.factory import make_policy_config
from lerobot.processor import PolicyProcessorPipeline
from lerobot.utils.feature_utils import dataset_to_policy_features
from safetensors import SafetensorError

from zk0.aggregation import lora
from zk0.config import PeftConfig, PolicyConfig, RunConfig, resolve_path
from zk0.data.hub import HUB_ERRORS, patiently
from zk0.errors import PolicyError, first_line
from zk0.layout import BASE_FOLDER
from zk0.learning.plugins import check_plugin, load_plugins

VLM_FOLDER = "vlm"
"""A base folder may carry its vision-language config and tokenizer in this sub-folder, to load without the hub."""
ROOM = {FeatureType.STATE: "max_state_dim", FeatureType.ACTION: "max_action_dim"}
"""The field of a LeRobot config that says what SmolVLA and its like pad to."""
type Policy = PreTrainedPolicy
"""A LeRobot policy, or PEFT's PeftModel around one, which forwards every attribute of it."""
type Processor = PolicyProcessorPipeline[Any, Any]
"""LeRobot's pre- or post-processing pipeline."""


def base_path(policy: PolicyConfig, run_dir: Path) -> str:
    """Where the base policy lies: the config's path, or the run's own `base/` for one made from scratch."""
    if policy.path is None:
        return str(run_dir / BASE_FOLDER)
    local = resolve_path(policy.path)
    return str(local) if local.is_dir() else policy.path


def load_policy_config(policy: PolicyConfig, path: str) -> PreTrainedConfig:
    """Read the base's LeRobot config and apply the run's overrides.

    Raises:
        ConfigError: policy.plugin cannot be imported.
        PolicyError: no such policy, or an override that its config does not know.
    """
    load_plugins(policy)
    try:
        with _temporary_files_removed():
            config = patiently(lambda: PreTrainedConfig.from_pretrained(path, revision=policy.revision), path)
    except (*HUB_ERRORS, OSError, ValueError) as error:
        raise PolicyError(
            f"policy.path = {policy.path!r}: no LeRobot policy can be read there ({first_line(error)}); "
            "give a pretrained_model folder with config.json and model.safetensors, or a hub id"
        ) from error
    config.pretrained_path = Path(path) if Path(path).is_dir() else path
    config.pretrained_revision = policy.revision
    if getattr(config, "vlm_model_name", None) == VLM_FOLDER:
        config.vlm_model_name = str(Path(path) / VLM_FOLDER)
    return _override(config, policy)


@contextmanager
def _temporary_files_removed() -> Iterator[None]:
    """LeRobot copies every config that it reads to a temporary file, and leaves it there: thousands in a long run."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="zk0-") as scratch:
        tempfile.tempdir = scratch
        try:
            yield
        finally:
            tempfile.tempdir = before


def new_policy_config(policy: PolicyConfig, features: dict[str, Any]) -> PreTrainedConfig:
    """The LeRobot config of a policy made from scratch for a dataset's features."""
    load_plugins(policy)
    if policy.type not in PreTrainedConfig.get_known_choices():
        known = ", ".join(sorted(PreTrainedConfig.get_known_choices()))
        raise PolicyError(
            f"policy.type = {policy.type!r}: LeRobot does not know it; use one of {known}, or name its plug-in"
        )
    _refuse_unknown(policy, PreTrainedConfig.get_choice_class(policy.type))
    try:
        config = make_policy_config(policy.type, device=policy.device, push_to_hub=False, **policy.overrides)
    except (TypeError, ValueError) as error:
        raise PolicyError(f"policy.overrides = {policy.overrides!r}: {error}") from error
    config.input_features = {key: value for key, value in features.items() if value.type is not FeatureType.ACTION}
    config.output_features = {key: value for key, value in features.items() if value.type is FeatureType.ACTION}
    return config


def policy_features(meta: LeRobotDatasetMetadata | EnvConfig, rename_map: dict[str, str]) -> dict[str, Any]:
    """The features of a dataset or an environment under the names that the policy knows them by."""
    if isinstance(meta, EnvConfig):
        features = env_to_policy_features(meta)
    else:
        features = dataset_to_policy_features(meta.features)
    return {rename_map.get(key, key): value for key, value in features.items()}


def base_config(config: RunConfig, first: LeRobotDatasetMetadata) -> PreTrainedConfig:
    """The LeRobot config that the datasets must fit: the base's, or that of a policy made for the first client.

    Raises:
        ConfigError: policy.plugin cannot be imported, or has not the policy.
        PolicyError: no such policy, or an override that its config does not know.
    """
    if config.policy.path is not None:
        base = load_policy_config(config.policy, base_path(config.policy, Path()))
        for_joints(base, policy_features(first, config.clients[0].rename_map))
    else:
        base = new_policy_config(config.policy, policy_features(first, config.clients[0].rename_map))
    check_plugin(config.policy, base)
    return base


def for_joints(config: PreTrainedConfig, features: Mapping[str, Any]) -> None:
    """Give a policy that pads states and actions the number of joints of a robot, as far as it has room for them.

    LeRobot does so with actions alone, and saves the base's number for the states.

    Args:
        config: LeRobot's config of the base, which is changed.
        features: of the robot, under the policy's names.
    """
    for known in (config.input_features or {}, config.output_features or {}):
        for key, feature in known.items():
            room = room_for(config, feature.type)
            if room is not None and key in features and features[key].shape[0] <= room:
                known[key] = features[key]


def room_for(config: PreTrainedConfig, kind: FeatureType) -> int | None:
    """How many numbers the policy pads a state or an action to; None where it must have just as many."""
    room = getattr(config, ROOM.get(kind, ""), None)
    return room if isinstance(room, int) else None


def build_policy(
    config: PreTrainedConfig, peft: PeftConfig, meta: LeRobotDatasetMetadata | EnvConfig, rename_map: dict[str, str]
) -> Policy:
    """Make the policy, with fresh adapters where the run uses them; seed torch before, the adapters start at random.

    Args:
        config: LeRobot's config of the base.
        peft: the adapters.
        meta: of the dataset that it is for; or the environment that it is to act in.
        rename_map: feature of that dataset or environment -> policy feature.

    Raises:
        PolicyError: its weights cannot be loaded, or the adapters fit no module.
    """
    source = {"env_cfg" if isinstance(meta, EnvConfig) else "ds_meta": meta}
    try:
        # The rename map only tells LeRobot to leave its own, coarser camera check out: ours has run before.
        policy = make_policy(config, rename_map=rename_map, **source)
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise PolicyError(
            f"policy {config.pretrained_path}: its weights cannot be loaded ({str(error).splitlines()[0]})"
        ) from error
    if not peft.enabled:
        return policy
    options = dataclasses.asdict(
        LeRobotPeftConfig(
            r=peft.r,
            lora_alpha=peft.lora_alpha,
            target_modules=peft.target_modules,
            full_training_modules=peft.full_training_modules,
        )
    )
    try:
        wrapped: Policy = policy.wrap_with_peft(peft_cli_overrides=options)
    except ValueError as error:
        raise PolicyError(f"peft.target_modules = {peft.target_modules!r}: {error}") from error
    for name, value in wrapped.named_parameters():
        if peft.aggregation == "ffa" and lora.is_factor_a(name):
            value.requires_grad_(False)
    return wrapped


def save_pretrained(policy: Policy, preprocessor: Processor, postprocessor: Processor, folder: Path) -> None:
    """Write a LeRobot `pretrained_model` folder: weights or adapter, config and processors."""
    policy.save_pretrained(folder)
    policy.config.save_pretrained(folder)
    preprocessor.save_pretrained(folder)
    postprocessor.save_pretrained(folder)


def _override(config: PreTrainedConfig, policy: PolicyConfig) -> PreTrainedConfig:
    _refuse_unknown(policy, type(config))
    try:
        return dataclasses.replace(config, **{**policy.overrides, "device": policy.device, "push_to_hub": False})
    except (TypeError, ValueError) as error:
        raise PolicyError(f"policy.overrides = {policy.overrides!r}: {error}") from error


def _refuse_unknown(policy: PolicyConfig, config_class: type[Any]) -> None:
    known = {field.name for field in dataclasses.fields(config_class)}
    if unknown := sorted(set(policy.overrides) - known):
        raise PolicyError(
            f"policy.overrides.{unknown[0]} = {policy.overrides[unknown[0]]!r}: {config_class.__name__} has no such "
            f"field; it has {', '.join(sorted(known))}"
        )
