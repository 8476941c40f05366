"""Normalisation statistics: of episodes, of training episodes, of all clients; flat, as they travel."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from lerobot.datasets.compute_stats import aggregate_stats
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.utils.constants import ACTION, IMAGENET_STATS, OBS_STR
from numpy.typing import NDArray

from zk0.data.datasets import split_episodes
from zk0.errors import DatasetError

Stats = dict[str, dict[str, NDArray[Any]]]
"""Feature -> statistic (`mean`, `std`, `min`, `max`, `count`, quantiles) -> array; LeRobot's own layout."""
STATISTICS = ("mean", "std", "min", "max", "count")
"""What `aggregate_stats` needs of every feature; quantiles are recorded since LeRobot 0.4, and not by every tool."""
WITHOUT_STATISTICS = ("string", "language")
"""Types of features that LeRobot records no statistics of."""


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
