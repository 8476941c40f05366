"""Open and split LeRobot datasets, and compute the statistics of chosen episodes."""

from pathlib import Path

import pyarrow as pa
from lerobot.configs.policies import PreTrainedConfig
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.factory import resolve_delta_timestamps
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from zk0.config import DataConfig, DatasetConfig, resolve_path
from zk0.data.hub import HUB_ERRORS, patiently
from zk0.errors import DatasetError, first_line


def open_metadata(dataset: DatasetConfig) -> LeRobotDatasetMetadata:
    """Read a dataset's `meta/` folder, from disk or from the hub.

    Raises:
        DatasetError: there is no such dataset, or its metadata cannot be read.
    """
    root = _root(dataset)
    if root is not None and not (root / "meta" / "info.json").is_file():
        raise DatasetError(
            f"dataset {dataset.name!r}: root = {dataset.root!r} holds no LeRobot dataset (no meta/info.json); "
            "give the folder that contains meta/, data/ and videos/"
        )
    try:
        meta = patiently(
            lambda: LeRobotDatasetMetadata(dataset.repo_id, root=root, revision=dataset.revision), dataset.repo_id
        )
    except HUB_ERRORS as error:
        raise DatasetError(
            f"dataset {dataset.name!r}: repo_id = {dataset.repo_id!r} cannot be fetched from the hub "
            f"({first_line(error)}); check the id, your connection and `hf auth login`, or give its folder as root"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise DatasetError(
            f"dataset {dataset.name!r}: its metadata in {root or dataset.repo_id} is damaged ({first_line(error)}); "
            "restore meta/ from the original, or record the dataset again"
        ) from error
    if not meta.total_episodes or meta.episodes is None:
        raise DatasetError(f"dataset {dataset.name!r}: has no episodes; record some, or remove it from the config")
    return meta


def split_episodes(total_episodes: int, holdout_episodes: int) -> tuple[list[int], list[int]]:
    """Split episode indices into those trained on and the held-out last ones."""
    first_held_out = total_episodes - holdout_episodes
    return list(range(first_held_out)), list(range(first_held_out, total_episodes))


def build_dataset(
    dataset: DatasetConfig,
    meta: LeRobotDatasetMetadata,
    policy: PreTrainedConfig,
    data: DataConfig,
    episodes: list[int],
) -> LeRobotDataset:
    """Open the frames of some episodes, with the action chunks that the policy asks for.

    As LeRobot's `make_dataset`, which would read the metadata, the dearest part of a short fit, once more.
    """
    return LeRobotDataset(
        dataset.repo_id,
        root=meta.root,
        episodes=episodes,
        delta_timestamps=resolve_delta_timestamps(policy, meta),
        revision=dataset.revision,
        video_backend=data.video_backend,
        return_uint8=True,
        tolerance_s=data.tolerance_s,
    )


def _root(dataset: DatasetConfig) -> Path | None:
    return resolve_path(dataset.root) if dataset.root is not None else None
