"""Build a policy by LeRobot's factories, merge the adapter that it may begin from, and put fresh LoRA on it by PEFT."""

import copy
import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from urllib.error import URLError

import peft
import torch
from huggingface_hub.constants import SAFETENSORS_SINGLE_FILE
from lerobot.configs.default import PeftConfig as LeRobotPeftConfig
from lerobot.configs.policies import PreTrainedConfig
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.envs.configs import EnvConfig
from lerobot.policies import PreTrainedPolicy, make_policy
from safetensors import safe_open

from zk0.aggregation import lora
from zk0.config import PeftConfig
from zk0.data.hub import HUB_ERRORS, is_hub_id
from zk0.errors import PolicyError, first_line
from zk0.learning.policy import Policy

type Source = LeRobotDatasetMetadata | EnvConfig
"""What a policy's features come from: a dataset's metadata, or LeRobot's config of an environment."""
SIZE_MISMATCH = re.compile(
    r"size mismatch for (\S+): copying a param with shape (.+?) from checkpoint, .*? is (.+?\))\."
)
"""In the text of torch's RuntimeError."""
INTEGERS = ("I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64", "BOOL")
"""safetensors' names of types that are no weights: torch would copy them into floats in silence."""


def build_policy(config: PreTrainedConfig, adapters: PeftConfig, meta: Source, rename_map: dict[str, str]) -> Policy:
    """Make the policy, with fresh adapters where the run uses them; seed torch before, the adapters start at random.

    Args:
        config: LeRobot's config of the base.
        adapters: the adapters.
        meta: of the dataset that it is for; or the environment that it is to act in.
        rename_map: feature of that dataset or environment -> policy feature.

    Raises:
        PolicyError: its weights cannot be loaded, or the adapters fit no module.
    """
    if config.use_peft:
        raise PolicyError(
            f"policy.path = {str(config.pretrained_path)!r}: an earlier zk0 began this run from the base of that "
            "adapter, not from the adapter; begin a new run"
        )
    return with_adapters(plain_policy(config, meta, rename_map), adapters)


def plain_policy(config: PreTrainedConfig, meta: Source, rename_map: dict[str, str]) -> Policy:
    """The policy before any adapters of the run: with the base's weights, those of an adapter merged, or new ones.

    Args:
        config: LeRobot's config of the base, of an adapter on it, or of a policy made from scratch.
        meta: as for `build_policy`.
        rename_map: as for `build_policy`.

    Raises:
        PolicyError: it cannot be built: a package, weights or a network are missing, or do not fit.
    """
    source = {"env_cfg" if isinstance(meta, EnvConfig) else "ds_meta": meta}
    try:
        if config.use_peft:
            return _merged(config, source, rename_map)
        # The rename map only tells LeRobot to leave its own, coarser camera check out: ours has run before.
        return make_policy(config, rename_map=rename_map, **source)
    except (PolicyError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a policy's own code raises
        raise _explained(config, error) from error


def with_adapters(policy: Policy, adapters: PeftConfig) -> Policy:
    """Fresh LoRA on a policy; or the policy itself where all of it is trained.

    Raises:
        PolicyError: they fit no module.
    """
    if not adapters.enabled:
        return policy
    options = dataclasses.asdict(
        LeRobotPeftConfig(
            r=adapters.r,
            lora_alpha=adapters.lora_alpha,
            target_modules=adapters.target_modules,
            full_training_modules=adapters.full_training_modules,
        )
    )
    try:
        wrapped: Policy = policy.wrap_with_peft(peft_cli_overrides=options)
    except (ValueError, re.error) as error:
        raise PolicyError(f"peft.target_modules = {adapters.target_modules!r}: {first_line(error)}") from error
    for name, value in wrapped.named_parameters():
        if adapters.aggregation == "ffa" and lora.is_factor_a(name):
            value.requires_grad_(False)
    return wrapped


def missing_weights(policy: Policy, config: PreTrainedConfig) -> list[str]:
    """Tensors of a policy that its weights' file lacks: LeRobot leaves them at random, and says so in its log alone.

    Raises:
        PolicyError: the file has none of them, or numbers that are no weights.
    """
    folder = Path(str(config.pretrained_path))
    # A policy that reads its file by code of its own may well rename what is in it.
    theirs = type(policy).from_pretrained.__func__ is not PreTrainedPolicy.from_pretrained.__func__
    if config.use_peft or theirs or not folder.is_dir():
        return []
    file, own = _weights_header(folder), policy.state_dict()
    for name in sorted(file.keys() & own.keys()):
        if file[name][0] in INTEGERS and own[name].is_floating_point():
            raise PolicyError(
                f"policy.path = {str(folder)!r}: {name} has type {file[name][0]} in the weights: they are quantised, "
                "and cannot be trained; give the weights in float32, float16 or bfloat16"
            )
    loaded = {value.data_ptr() for name, value in own.items() if name in file}  # some share one storage
    missing = sorted(name for name, value in own.items() if value.numel() and value.data_ptr() not in loaded)
    if missing and not loaded:
        raise PolicyError(
            f"policy.path = {str(folder)!r}: model.safetensors has none of the policy's tensors: it has "
            f"{min(file)!r}, the policy {missing[0]!r}; give the weights that belong to config.json, under its names"
        )
    return missing


def check_finite(policy: Policy, named: str) -> None:
    """Refuse weights that are NaN or infinite: every loss would be.

    Raises:
        PolicyError: names the first such tensor.
    """
    for name, value in policy.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise PolicyError(
                f"{named}: its weights are damaged: {name} has NaN or infinity; give an earlier checkpoint"
            )


def named_policy(config: PreTrainedConfig) -> str:
    """How messages name a policy."""
    path = config.pretrained_path
    return f"policy.type = {config.type!r}" if path is None else f"policy.path = {str(path)!r} ({config.type})"


def _weights_header(folder: Path) -> Mapping[str, tuple[str, tuple[int, ...]]]:
    """Name -> (dtype as safetensors spells it, shape) of each tensor of a folder's weights."""
    with safe_open(folder / SAFETENSORS_SINGLE_FILE, framework="np") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        return {name: (item.get_dtype(), tuple(item.get_shape())) for name, item in slices.items()}


def _merged(config: PreTrainedConfig, source: dict[str, Source], rename_map: dict[str, str]) -> Policy:
    """A policy with the adapter of its folder merged into its base, all of it to be trained as if it were a base."""
    folder = str(config.pretrained_path)
    adapter = peft.PeftConfig.from_pretrained(folder, revision=config.pretrained_revision)
    plain = copy.copy(config)
    plain.use_peft = False
    plain.pretrained_path, plain.pretrained_revision = adapter.base_model_name_or_path, adapter.revision
    built = make_policy(plain, rename_map=rename_map, **source)
    trained = {name for name, value in built.named_parameters() if value.requires_grad}
    wrapped = peft.PeftModel.from_pretrained(built, folder, config=adapter, revision=config.pretrained_revision)
    _check_adapter_keys(wrapped, folder, config)
    if not hasattr(wrapped, "merge_and_unload"):
        raise PolicyError(
            f"policy.path = {folder!r}: an adapter of the kind {adapter.peft_type} cannot be merged into its base; "
            "train on from a LoRA, or from the base"
        )
    merged: Policy = wrapped.merge_and_unload()
    for name, value in merged.named_parameters():
        value.requires_grad_(name in trained)
    merged.config.pretrained_path, merged.config.pretrained_revision = config.pretrained_path, None
    return merged


def _check_adapter_keys(wrapped: Policy, folder: str, config: PreTrainedConfig) -> None:
    """PEFT passes over the tensors that fit nowhere, and leaves those that the file lacks at random."""
    file = peft.utils.load_peft_weights(folder, device="cpu", revision=config.pretrained_revision)
    odd = sorted(file.keys() ^ peft.get_peft_model_state_dict(wrapped).keys())
    if odd:
        where = "the adapter's file, and has no place in its base" if odd[0] in file else "its config, not in its file"
        raise PolicyError(
            f"policy.path = {folder!r}: the adapter does not fit its base: {odd[0]} (and {len(odd) - 1} more) is in "
            f"{where}; correct base_model_name_or_path or target_modules in adapter_config.json, or copy the adapter "
            "again"
        )


def _explained(config: PreTrainedConfig, error: Exception) -> PolicyError:
    """Why LeRobot cannot build a policy, and what to do."""
    named, said = named_policy(config), " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ImportError):
        hint = (
            "" if "pip install" in said else "; install it, or LeRobot's extra for this policy, wherever clients train"
        )
        return PolicyError(f"{named}: a package is missing: {said}{hint}")
    if found := SIZE_MISMATCH.search(said):
        name, there, here = found.groups()
        by = "adapter_config.json" if config.use_peft else "config.json and policy.overrides"
        return PolicyError(
            f"{named}: its weights cannot be loaded: {name} has shape {there} in the file and {here} by {by}; give "
            "those that belong to the weights"
        )
    if weights := _unfetched(config, error, said):
        return PolicyError(f"{named}: {weights}")
    what = "it cannot be built" if config.pretrained_path is None else "its weights cannot be loaded"
    if error.__cause__ is not None and (cause := first_line(error.__cause__)) not in said:
        said += f", from {type(error.__cause__).__name__}: {cause}"
    said = shorten(said, 400, placeholder=" ...")
    if config.use_peft:
        return PolicyError(
            f"{named}: {what} ({type(error).__name__}: {said}); correct peft_type, target_modules or r in "
            "adapter_config.json, or give the weights that were saved with it"
        )
    return PolicyError(
        f"{named}: {what} ({type(error).__name__}: {said}); correct policy.overrides or the policy's "
        "folder, or take another policy"
    )


def _unfetched(config: PreTrainedConfig, error: Exception, said: str) -> str | None:
    """What is wanted from a network that is not there; None where that is not what an error says."""
    if not isinstance(error, (*HUB_ERRORS, URLError, OSError)):
        return None
    backbone = getattr(config, "pretrained_backbone_weights", None)
    if backbone and isinstance(error, URLError):
        return (
            f"pretrained_backbone_weights = {backbone!r} cannot be fetched ({said}); connect this machine once, or "
            'begin without them: policy.overrides.pretrained_backbone_weights = "null"'
        )
    texts = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    models = {
        key: value for key, value in texts.items() if isinstance(value, str) and is_hub_id(value) and "/" in value
    }
    wanted = {key: value for key, value in models.items() if value in said} or models
    if not wanted or not (isinstance(error, HUB_ERRORS) or "connect" in said or wanted != models):
        return None
    keys = " or ".join(f"{key} = {value!r}" for key, value in wanted.items())
    return (
        f"{keys} is neither a folder here nor can it be fetched ({shorten(said, 300, placeholder=' ...')}); connect "
        f"this machine once, or give a folder: policy.overrides.{next(iter(wanted))}"
    )
