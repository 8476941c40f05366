"""The policy of a run as LeRobot configures it: from policy.path or from scratch, with the run's overrides."""

import dataclasses
import difflib
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_type_hints

from draccus.utils import DraccusException
from huggingface_hub.constants import CONFIG_NAME
from lerobot.__version__ import __version__ as LEROBOT  # noqa: N812 - a constant of theirs
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.envs.configs import EnvConfig
from lerobot.envs.utils import env_to_policy_features
from lerobot.policies import PreTrainedPolicy
from lerobot.policies.factory import make_policy_config
from lerobot.processor import PolicyProcessorPipeline
from lerobot.utils.feature_utils import dataset_to_policy_features
from safetensors import SafetensorError

from zk0.config import PolicyConfig, RunConfig, resolve_path
from zk0.data.hub import HUB_ERRORS, patiently
from zk0.errors import PolicyError, StorageError, first_line
from zk0.layout import BASE_FOLDER
from zk0.learning.overrides import decoded, null_misfits, refused_by_policy
from zk0.learning.plugins import check_plugin, load_plugins

VLM_FOLDER = "vlm"
"""A base folder may carry its vision-language config and tokenizer in this sub-folder, to load without the hub."""
ROOM = {FeatureType.STATE: "max_state_dim", FeatureType.ACTION: "max_action_dim"}
"""The field of a LeRobot config that says what SmolVLA and its like pad to."""
type Policy = PreTrainedPolicy
"""A LeRobot policy, or PEFT's PeftModel around one, which forwards every attribute of it."""
type Processor = PolicyProcessorPipeline[Any, Any]
"""LeRobot's pre- or post-processing pipeline."""


def source_path(policy: PolicyConfig) -> str:
    """What policy.path means: a folder of this machine, or an id of the hub."""
    path = str(policy.path)
    local = resolve_path(path)
    return str(local) if local.is_dir() else path


def base_path(policy: PolicyConfig, run_dir: Path) -> str:
    """Where a run's base lies: in its own `base/`, where it had to make one, or at policy.path."""
    own = run_dir / BASE_FOLDER
    return str(own) if policy.path is None or (own / CONFIG_NAME).is_file() else source_path(policy)


def load_policy_config(policy: PolicyConfig, path: str) -> PreTrainedConfig:
    """Read the base's LeRobot config and apply the run's overrides, which a base of the run's own has already.

    Raises:
        ConfigError: policy.plugin cannot be imported.
        PolicyError: no such policy, or an override that its config does not know.
    """
    load_plugins(policy)
    own = policy.path is None or path != source_path(policy)
    try:
        with _temporary_files_removed():
            config = patiently(lambda: PreTrainedConfig.from_pretrained(path, revision=policy.revision), path)
    except (*HUB_ERRORS, OSError, ValueError, DraccusException, TypeError, KeyError) as error:
        raise _unreadable(policy, error, _nulls(Path(path))) from error
    config.pretrained_path = Path(path) if Path(path).is_dir() else path
    config.pretrained_revision = None if own else policy.revision
    if getattr(config, "vlm_model_name", None) == VLM_FOLDER:
        config.vlm_model_name = str(Path(path) / VLM_FOLDER)
    config = _override(config, policy, {} if own else policy.overrides)
    if getattr(config, "pretrained_backbone_weights", None):
        config.pretrained_backbone_weights = None  # they come with the base's own: nothing is to be fetched
    return config


def _nulls(folder: Path) -> str:
    """Fields of a folder's config.json that are null and may not be, which LeRobot finds only when it reckons."""
    try:
        found = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
        hints = get_type_hints(PreTrainedConfig.get_choice_class(found["type"]))
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    odd = [f"{key} is null" for key, hint in hints.items() if key in found and null_misfits(found[key], hint)]
    return ", ".join(odd)


def _unreadable(policy: PolicyConfig, error: Exception, nulls: str = "") -> PolicyError:
    """What is wrong with a config.json, in LeRobot's words: in the cause where draccus only says that it couldn't."""
    cause = error.__cause__ if str(error).startswith("Couldn't instantiate") and error.__cause__ else error
    said = nulls or " ".join(str(cause).split()) or type(cause).__name__
    named = f"policy.path = {policy.path!r}"
    if "is not registered" in said:
        kind = said.split("'")[1]
        close = difflib.get_close_matches(kind, PreTrainedConfig.get_known_choices(), n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        known = ", ".join(sorted(PreTrainedConfig.get_known_choices()))
        return PolicyError(
            f"{named}: config.json has type = {kind!r}, which LeRobot {LEROBOT} does not know{hint}; it knows {known}; "
            "name the plug-in that has it in policy.plugin, or take another policy"
        )
    if isinstance(error, DraccusException):
        return PolicyError(
            f"{named}: config.json does not fit LeRobot {LEROBOT} ({said}): another version wrote it, or somebody "
            "edited it; remove or correct that field in a copy, and give the copy"
        )
    return PolicyError(
        f"{named}: no LeRobot policy can be read there ({first_line(error)}); "
        "give a pretrained_model folder with config.json and model.safetensors, or a hub id"
    )


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
    config_class = PreTrainedConfig.get_choice_class(policy.type)
    overrides = decoded(policy.overrides, config_class)
    try:
        config = make_policy_config(policy.type, device=policy.device, push_to_hub=False, **overrides)
    except Exception as error:  # whatever a policy's own __post_init__ raises
        raise refused_by_policy(f"policy.type = {policy.type!r}", policy.overrides, error) from error
    if "input_features" not in overrides:
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
        base = load_policy_config(config.policy, source_path(config.policy))
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


def save_pretrained(policy: Policy, preprocessor: Processor, postprocessor: Processor, folder: Path) -> None:
    """Write a LeRobot `pretrained_model` folder: weights or adapter, config and processors.

    Raises:
        StorageError: it cannot be written.
    """
    try:
        for part in (policy, policy.config, preprocessor, postprocessor):
            part.save_pretrained(folder)
    except (OSError, SafetensorError) as error:  # of tensors that can be written it only says what a disk answers
        remedy = "see that this disk answers and has space, then give the same command again"
        raise StorageError(f"{folder}: cannot be written: {first_line(error)}; {remedy}") from error


def _override(config: PreTrainedConfig, policy: PolicyConfig, overrides: dict[str, Any]) -> PreTrainedConfig:
    values = decoded(overrides, type(config))
    try:
        return dataclasses.replace(config, **{**values, "device": policy.device, "push_to_hub": False})
    except Exception as error:  # whatever a policy's own __post_init__ raises
        raise refused_by_policy(f"policy.path = {policy.path!r}", overrides, error) from error
