"""Open and split LeRobot datasets, and compute the statistics of chosen episodes."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lerobot.configs.policies import PreTrainedConfig
from lerobot.datasets.compute_stats import aggregate_stats
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.factory import resolve_delta_timestamps
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.utils.constants import ACTION, IMAGENET_STATS, OBS_STR
from numpy.typing import NDArray

from zk0.config import DataConfig, DatasetConfig, resolve_path
from zk0.errors import DatasetError
from zk0.hub import HUB_ERRORS, patiently

Stats = dict[str, dict[str, NDArray[Any]]]
"""Feature -> statistic (`mean`, `std`, `min`, `max`, `count`, quantiles) -> array; LeRobot's own layout."""

STATISTICS = ("mean", "std", "min", "max", "count")
"""What `aggregate_stats` needs of every feature; quantiles are recorded since LeRobot 0.4, and not by every tool."""
WITHOUT_STATISTICS = ("string", "language")
"""Types of features that LeRobot records no statistics of."""


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
            f"({_first_line(error)}); check the id, your connection and `hf auth login`, or give its folder as root"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise DatasetError(
            f"dataset {dataset.name!r}: its metadata in {root or dataset.repo_id} is damaged ({_first_line(error)}); "
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


def episode_statistics(meta: LeRobotDatasetMetadata, episodes: list[int]) -> Stats:
    """Statistics of just these episodes: LeRobot's per-episode records, aggregated by its `aggregate_stats`.

    `LeRobotDataset.meta.stats` covers the whole dataset whatever `episodes=` says, so it would leak the hold-out.

    Raises:
        DatasetError: an episode, or a feature of one, has no statistics: LeRobot would aggregate what is left.
    """
    recorded = recorded_statistics(meta)
    lacking = [f"episode {episode}" for episode in episodes if episode not in recorded]
    for episode in sorted(set(episodes) & recorded.keys()):
        lacking += [f"{missing} of episode {episode}" for missing in missing_statistics(meta, recorded[episode])]
    if lacking:
        raise DatasetError(
            f"{meta.repo_id}: meta/episodes lacks the statistics of {lacking[0]} (and {len(lacking) - 1} more); "
            "record or convert the dataset again with LeRobot's own tools"
        )
    return aggregate([recorded[episode] for episode in episodes])


def training_statistics(meta: LeRobotDatasetMetadata, holdout_episodes: int) -> Stats:
    """What a client's data is normalised by: statistics of its training episodes, with ImageNet's for the cameras.

    Raises:
        DatasetError: as `episode_statistics`.
    """
    episodes, _ = split_episodes(meta.total_episodes, holdout_episodes)
    return with_imagenet(episode_statistics(meta, episodes), meta)


def recorded_statistics(meta: LeRobotDatasetMetadata) -> dict[int, Stats]:
    """Episode -> the statistics that LeRobot recorded with it."""
    files = sorted((Path(meta.root) / "meta" / "episodes").rglob("*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    return {int(row["episode_index"]): _stats_of_row(row, meta.features) for row in rows}


def missing_statistics(meta: LeRobotDatasetMetadata, stats: Stats) -> list[str]:
    """`feature/statistic` of what a policy may normalise by and an episode lacks."""
    wanted = [key for key in meta.features if key == ACTION or key.startswith(f"{OBS_STR}.")]
    numeric = [key for key in wanted if meta.features[key]["dtype"] not in WITHOUT_STATISTICS]
    return [f"{key}/{name}" for key in numeric for name in STATISTICS if name not in stats.get(key, {})]


def aggregate(stats: list[Stats]) -> Stats:
    """Count-weighted aggregation by LeRobot's `aggregate_stats`; used over episodes and over clients alike."""
    merged: Stats = aggregate_stats(stats)
    return {feature: merged[feature] for feature in sorted(merged)}


def with_imagenet(stats: Stats, meta: LeRobotDatasetMetadata) -> Stats:
    """Replace the cameras' mean and std by ImageNet's, as `lerobot-train` does by default."""
    cameras = [key for key in meta.camera_keys if key in stats and key not in meta.depth_keys]
    imagenet = {name: np.asarray(value, dtype=np.float32) for name, value in IMAGENET_STATS.items()}
    return {**stats, **{key: {**stats[key], **imagenet} for key in cameras}}


def flatten_stats(stats: Stats) -> dict[str, NDArray[Any]]:
    """Statistics as flat tensors, `feature/statistic`, for a safetensors file."""
    return {f"{feature}/{name}": np.asarray(value) for feature, item in stats.items() for name, value in item.items()}


def unflatten_stats(tensors: dict[str, NDArray[Any]]) -> Stats:
    """Inverse of `flatten_stats`."""
    stats: Stats = {}
    for key, value in tensors.items():
        feature, name = key.rsplit("/", 1)
        stats.setdefault(feature, {})[name] = value
    return stats


def _root(dataset: DatasetConfig) -> Path | None:
    return resolve_path(dataset.root) if dataset.root is not None else None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _stats_of_row(row: dict[str, Any], features: dict[str, Any]) -> Stats:
    stats: Stats = {}
    for key, value in row.items():
        if not key.startswith("stats/") or value is None:
            continue
        _, feature, name = key.split("/", 2)
        if feature not in features:
            continue
        array = np.asarray(value, dtype=np.int64 if name == "count" else np.float64)
        is_image = features[feature]["dtype"] in ("image", "video") and name != "count"
        stats.setdefault(feature, {})[name] = array.reshape(-1, 1, 1) if is_image else array
    return stats
