"""Build a policy by LeRobot's factories, put LoRA on it by PEFT, and read and write the tensors that travel."""

import dataclasses
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.configs.default import PeftConfig as LeRobotPeftConfig
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType, NormalizationMode
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.envs.configs import EnvConfig
from lerobot.policies import PreTrainedPolicy, make_policy, make_pre_post_processors
from lerobot.policies.factory import make_policy_config
from lerobot.processor import NormalizerProcessorStep, PolicyProcessorPipeline, UnnormalizerProcessorStep
from lerobot.utils.feature_utils import dataset_to_policy_features
from numpy.typing import NDArray
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError

from zk0 import lora
from zk0.config import PeftConfig, PolicyConfig, RunConfig, resolve_path
from zk0.data import Stats
from zk0.errors import PolicyError
from zk0.hub import HUB_ERRORS, patiently

VLM_FOLDER = "vlm"
"""A base folder may carry its vision-language config and tokenizer in this sub-folder, to load without the hub."""

NORMALIZED_BY = {
    NormalizationMode.IDENTITY: (),
    NormalizationMode.MEAN_STD: ("mean", "std"),
    NormalizationMode.MIN_MAX: ("min", "max"),
    NormalizationMode.QUANTILES: ("q01", "q99"),
    NormalizationMode.QUANTILE10: ("q10", "q90"),
}
"""The statistics that LeRobot's normaliser reads in each mode; without any it passes values through in silence."""

type Policy = PreTrainedPolicy
"""A LeRobot policy, or PEFT's PeftModel around one, which forwards every attribute of it."""
type Processor = PolicyProcessorPipeline[Any, Any]
"""LeRobot's pre- or post-processing pipeline."""


def base_path(policy: PolicyConfig, run_dir: Path) -> str:
    """Where the base policy lies: the config's path, or the run's own `base/` for one made from scratch."""
    if policy.path is None:
        return str(run_dir / "base")
    local = resolve_path(policy.path)
    return str(local) if local.is_dir() else policy.path


def load_policy_config(policy: PolicyConfig, path: str) -> PreTrainedConfig:
    """Read the base's LeRobot config and apply the run's overrides.

    Raises:
        PolicyError: no such policy, or an override that its config does not know.
    """
    try:
        with _temporary_files_removed():
            config = patiently(lambda: PreTrainedConfig.from_pretrained(path, revision=policy.revision), path)
    except (*HUB_ERRORS, OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise PolicyError(
            f"policy.path = {policy.path!r}: no LeRobot policy can be read there ({reason}); "
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
    if policy.type not in PreTrainedConfig.get_known_choices():
        known = ", ".join(sorted(PreTrainedConfig.get_known_choices()))
        raise PolicyError(f"policy.type = {policy.type!r}: LeRobot does not know it; use one of {known}")
    _refuse_unknown(policy, PreTrainedConfig.get_choice_class(policy.type))
    try:
        config = make_policy_config(policy.type, device=policy.device, push_to_hub=False, **policy.overrides)
    except (TypeError, ValueError) as error:
        raise PolicyError(f"policy.overrides = {policy.overrides!r}: {error}") from error
    config.input_features = {key: value for key, value in features.items() if value.type is not FeatureType.ACTION}
    return config


def policy_features(meta: LeRobotDatasetMetadata, rename_map: dict[str, str]) -> dict[str, Any]:
    """A dataset's features under the names that the policy knows them by."""
    return {rename_map.get(key, key): value for key, value in dataset_to_policy_features(meta.features).items()}


def base_config(config: RunConfig, first: LeRobotDatasetMetadata) -> PreTrainedConfig:
    """The LeRobot config that the datasets must fit: the base's, or that of a policy made for the first client.

    Raises:
        PolicyError: no such policy, or an override that its config does not know.
    """
    if config.policy.path is not None:
        return load_policy_config(config.policy, base_path(config.policy, Path()))
    return new_policy_config(config.policy, policy_features(first, config.clients[0].rename_map))


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


def exchanged_tensors(policy: Policy) -> dict[str, NDArray[Any]]:
    """The tensors that travel, by name, as fp32: adapters and `modules_to_save`, or all trainable parameters."""
    if isinstance(policy, PeftModel):
        tensors = get_peft_model_state_dict(policy)
    else:
        tensors = {name: value for name, value in policy.named_parameters() if value.requires_grad}
    return {name: tensors[name].detach().to("cpu", torch.float32).numpy().copy() for name in sorted(tensors)}


def update_tensors(policy: Policy, peft: PeftConfig) -> dict[str, NDArray[Any]]:
    """Those of the exchanged tensors that a fit changes and sends: all of them, but for FFA-LoRA's frozen A."""
    tensors = exchanged_tensors(policy)
    return {name: value for name, value in tensors.items() if peft.aggregation != "ffa" or not lora.is_factor_a(name)}


def load_exchanged_tensors(policy: Policy, tensors: dict[str, NDArray[Any]]) -> None:
    """Put the global tensors into the policy, by name.

    Raises:
        PolicyError: a name or shape that the policy does not have: the tensors belong to another config.
    """
    own = exchanged_tensors(policy)
    if own.keys() != tensors.keys():
        odd = sorted(own.keys() ^ tensors.keys())
        raise PolicyError(f"the global tensors do not fit the policy: {odd[0]!r} (and {len(odd) - 1} more) on one side")
    for name, value in tensors.items():
        if value.shape != own[name].shape:
            raise PolicyError(f"the global tensor {name!r} has shape {value.shape}, the policy's {own[name].shape}")
    state = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in tensors.items()}
    if isinstance(policy, PeftModel):
        set_peft_model_state_dict(policy, state)
    else:
        policy.load_state_dict(state, strict=False)


def build_processors(
    config: PreTrainedConfig, stats: Stats | None, rename_map: dict[str, str]
) -> tuple[Processor, Processor]:
    """Make the pre- and post-processor, with the base's own statistics or the given ones.

    Raises:
        PolicyError: a feature that is normalised has no statistics; LeRobot would silently pass it through.
    """
    features = {**(config.input_features or {}), **(config.output_features or {})}
    normalizer: dict[str, Any] = {"features": features, "norm_map": config.normalization_mapping}
    unnormalizer: dict[str, Any] = {"features": config.output_features, "norm_map": config.normalization_mapping}
    if stats is not None:
        renamed = {rename_map.get(key, key): value for key, value in stats.items()}
        normalizer["stats"] = unnormalizer["stats"] = renamed
    before: dict[str, Any] = {
        "device_processor": {"device": config.device},
        "normalizer_processor": normalizer,
        "rename_observations_processor": {"rename_map": rename_map},
    }
    if getattr(config, "vlm_model_name", None) and (Path(str(config.pretrained_path)) / VLM_FOLDER).is_dir():
        before["tokenizer_processor"] = {"tokenizer_name": str(Path(str(config.pretrained_path)) / VLM_FOLDER)}
    preprocessor, postprocessor = make_pre_post_processors(
        policy_cfg=config,
        pretrained_path=str(config.pretrained_path),
        pretrained_revision=config.pretrained_revision,
        preprocessor_overrides=before,
        postprocessor_overrides={"unnormalizer_processor": unnormalizer},
    )
    for pipeline in (preprocessor, postprocessor):
        _check_statistics(pipeline)
    return preprocessor, postprocessor


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


def _check_dimension(
    config: PreTrainedConfig, who: str, key: str, wanted: tuple[int, ...], found: tuple[int, ...]
) -> None:
    if tuple(wanted) != tuple(found):
        raise PolicyError(
            f"dataset {who!r}: {key!r} has {found[0]} dimensions, the policy ({config.type}) was made for {wanted[0]}; "
            "use a dataset of the same robot, or another base"
        )


def _check_statistics(pipeline: Processor) -> None:
    for step in pipeline.steps:
        if not isinstance(step, NormalizerProcessorStep | UnnormalizerProcessorStep):
            continue
        for key, feature in step.features.items():
            mode = step.norm_map.get(feature.type, NormalizationMode.IDENTITY)
            missing = [name for name in NORMALIZED_BY[mode] if f"{key}.{name}" not in step.state_dict()]
            if missing:
                raise PolicyError(
                    f"{key!r} is to be normalised ({mode.value}) but has no statistics ({', '.join(missing)}); "
                    "choose another data.normalization, or convert the datasets again with LeRobot's own tools"
                )


def _names(features: dict[str, Any]) -> str:
    return ", ".join(sorted(key for key in features if key.startswith(("observation.", "action"))))


def _spare(features: dict[str, Any], config: PreTrainedConfig) -> str:
    spare = [
        key for key in features if key.startswith("observation.images.") and key not in (config.input_features or {})
    ]
    return spare[0] if spare else "observation.images.<yours>"
