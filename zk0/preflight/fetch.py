"""Fetch from the hub what a run needs, as a step of its own: a client in a container has no network."""

from functools import partial
from pathlib import Path

from huggingface_hub import snapshot_download
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from zk0.config import DatasetConfig, RunConfig
from zk0.data.datasets import open_metadata
from zk0.data.hub import HUB_ERRORS, is_hub_id, patiently
from zk0.errors import DatasetError, PolicyError, first_line
from zk0.learning.policy import load_policy_config, source_path
from zk0.preflight.pretrained import (
    ADAPTER_CONFIG,
    adapter_base,
    check_adapter_base,
    check_model,
    check_pretrained,
    read_config,
    read_json,
)

WITHOUT_WEIGHTS = ["*.json", "*.txt", "*.model", "*.jinja"]
"""Config, tokenizer and processor of a vision-language model whose weights come with the policy."""


def fetch(config: RunConfig) -> None:
    """Bring every dataset without a root, and a base on the hub, into the local caches; what is there is not asked for.

    Raises:
        DatasetError, PolicyError: it cannot be fetched.
    """
    fetch_datasets(config)
    fetch_policy(config)


def fetch_datasets(config: RunConfig) -> None:
    """Bring every dataset without a root into the local cache.

    Raises:
        DatasetError: it cannot be fetched.
    """
    for dataset in config.datasets_here:
        if dataset.root is None:
            try:
                patiently(partial(_open, dataset, config), dataset.repo_id)
            except HUB_ERRORS as error:
                raise DatasetError(
                    f"dataset {dataset.name!r}: repo_id = {dataset.repo_id!r} cannot be fetched ({error}); check your "
                    "connection and `hf auth login`, or give its folder as root"
                ) from error


def _open(dataset: DatasetConfig, config: RunConfig) -> LeRobotDataset:
    open_metadata(dataset)  # names what is wrong with them, such as their version
    return LeRobotDataset(dataset.repo_id, revision=dataset.revision, video_backend=config.data.video_backend)


def fetch_policy(config: RunConfig) -> None:
    """Bring a base on the hub, and what it builds on, into the local caches, and check that its files are whole.

    Raises:
        PolicyError: it cannot be fetched, or is not whole.
    """
    if config.policy.path is None:
        return
    named = f"policy.path = {config.policy.path!r}"
    path = source_path(config.policy)
    folder = _local(path, config.policy.revision, named)
    check_pretrained(folder, named, config.policy.plugin)
    if (folder / ADAPTER_CONFIG).is_file() and read_config(folder, named).get("use_peft"):
        revision = read_json(folder / ADAPTER_CONFIG, named).get("revision")
        check_adapter_base(_local(adapter_base(folder, named), revision, f"{named}: the base of this adapter"), named)
    base = load_policy_config(config.policy, path)
    model = getattr(base, "vlm_model_name", None)
    if model and not Path(model).is_dir():
        weights = bool(getattr(base, "load_vlm_weights", False))
        _local(str(model), None, f"{named}: its vlm_model_name = {model!r}", weights=weights)
    elif model:
        check_model(Path(model), f"{named}: its vlm_model_name = {str(model)!r}")


def _local(path: str, revision: str | None, named: str, *, weights: bool | None = None) -> Path:
    """The folder itself, or where what lies on the hub was brought to.

    Args:
        path: folder or hub id.
        revision: of the hub.
        named: how messages begin.
        weights: of a model that others build on: with its weights, or its config and tokenizer alone; None: all of it.

    Raises:
        PolicyError: it cannot be fetched.
    """
    if Path(path).is_dir() or not is_hub_id(path):
        if weights is not None and not Path(path).is_dir():
            raise PolicyError(f"{named}: no such folder; put it there, or give another by policy.overrides")
        return Path(path)
    wanted = None if weights is None else [*WITHOUT_WEIGHTS, *(["*.safetensors"] if weights else [])]
    try:
        return Path(patiently(lambda: snapshot_download(path, revision=revision, allow_patterns=wanted), path))
    except (*HUB_ERRORS, OSError) as error:
        raise PolicyError(
            f"{named}: cannot be fetched ({first_line(error)}), and there is no such folder; check your connection and "
            "`hf auth login`, or give a folder"
        ) from error
