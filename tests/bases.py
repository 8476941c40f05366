"""Policies as people bring them, made of the shipped base: broken one fault at a time, or an adapter on it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from zk0.config import resolve_path

WEIGHTS = "model.safetensors"
STATS = ("policy_preprocessor_step_5_normalizer_processor", "policy_postprocessor_step_0_unnormalizer_processor")
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 5832408\n"
TARGETS = r".*lm_expert\.layers\.\d+\.self_attn\.(q|v)_proj|.*state_proj"
type Tensors = dict[str, NDArray[Any]]


def base(target: Path) -> Path:
    """A copy of the shipped base, to be changed."""
    shutil.copytree(resolve_path("asset:base"), target)
    return target


def edit_json(folder: Path, name: str = "config.json", remove: tuple[str, ...] = (), **values: Any) -> None:
    """Set or remove keys of a JSON file."""
    known = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({key: known[key] for key in known if key not in remove} | values))


def edit_tensors(folder: Path, change: Callable[[Tensors], Tensors], name: str = WEIGHTS) -> None:
    """Change a safetensors file."""
    save_file(change(load_file(folder / name)), folder / name)


def keyed_by_dataset(folder: Path) -> None:
    """The statistics under the name of a dataset, as those of a policy that several were trained into."""
    for stem in STATS:
        edit_tensors(folder, lambda old: {f"so100.buffer.{key}": old[key] for key in old}, f"{stem}.safetensors")


def adapter(target: Path, base_name: str | None = None) -> Path:
    """A LoRA on the shipped base as `lerobot-train --peft` leaves it, whose weights are not as LoRA begins; slow.

    Args:
        target: the folder to make.
        base_name: what it says of its base; where that lies when None.
    """
    import torch
    from lerobot.policies import make_policy, make_pre_post_processors

    from zk0.config import DatasetConfig, PolicyConfig
    from zk0.data.datasets import open_metadata
    from zk0.learning.policy import load_policy_config, save_pretrained

    source = resolve_path("asset:base")
    config = load_policy_config(PolicyConfig(path="asset:base", device="cpu"), str(source))
    meta = open_metadata(DatasetConfig(name="unseen", repo_id="zk0/unseen", root="asset:datasets/unseen"))
    torch.manual_seed(3)
    policy = make_policy(config, ds_meta=meta).wrap_with_peft(peft_cli_overrides={"r": 4, "target_modules": TARGETS})
    with torch.no_grad():
        for name, value in policy.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.05)
    tokenizer = {"tokenizer_processor": {"tokenizer_name": str(source / "vlm")}}
    before, after = make_pre_post_processors(config, str(source), preprocessor_overrides=tokenizer)
    save_pretrained(policy, before, after, target)
    if base_name is not None:
        edit_json(target, "adapter_config.json", base_model_name_or_path=base_name)
    return target


def spoiled(old: Tensors) -> Tensors:
    """With one number that is none."""
    name = min(old)
    old[name] = np.full_like(old[name], np.nan)
    return old
