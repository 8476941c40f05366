"""Fetch from the hub what a run needs, as a step of its own: a client in a container has no network."""

from functools import partial
from pathlib import Path

from huggingface_hub import snapshot_download
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from zk0.config import DatasetConfig, RunConfig
from zk0.data.datasets import open_metadata
from zk0.data.hub import HUB_ERRORS, patiently
from zk0.errors import DatasetError, PolicyError
from zk0.learning.policy import base_path, load_policy_config

WITHOUT_WEIGHTS = ["*.json", "*.txt", "*.model", "*.jinja"]
"""Config, tokenizer and processor of a vision-language model whose weights come with the policy."""


def fetch(config: RunConfig) -> None:
    """Bring every dataset without a root, and a base on the hub, into the local caches; what is there is not asked for.

    Raises:
        DatasetError, PolicyError: it cannot be fetched.
    """
    fetch_datasets(config)
    _fetch_base(config)


def fetch_datasets(config: RunConfig) -> None:
    """Bring every dataset without a root into the local cache.

    Raises:
        DatasetError: it cannot be fetched.
    """
    for dataset in [*config.clients, *config.evaluation.datasets]:
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


def _fetch_base(config: RunConfig) -> None:
    if config.policy.path is None:
        return
    path = base_path(config.policy, Path())
    try:
        if not Path(path).is_dir():
            patiently(lambda: snapshot_download(path, revision=config.policy.revision), path)
        base = load_policy_config(config.policy, path)
        model = getattr(base, "vlm_model_name", None)
        if model and not Path(model).is_dir():
            weights = bool(getattr(base, "load_vlm_weights", False))
            wanted = [*WITHOUT_WEIGHTS, *(["*.safetensors"] if weights else [])]
            patiently(lambda: snapshot_download(model, allow_patterns=wanted), model)
    except HUB_ERRORS as error:
        raise PolicyError(
            f"policy.path = {config.policy.path!r}: cannot be fetched ({error}); check your connection and "
            "`hf auth login`, or give a folder"
        ) from error
