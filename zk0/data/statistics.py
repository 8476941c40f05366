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
MOST = 2**53
"""Up to here whole numbers are exact in double precision."""
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
            "`zk0 check-data CONFIG --fix-to FOLDER` writes a copy with those of its rows"
        )
    dull = [key for key in _plain_cameras(meta) if not all(_is_camera(recorded[item].get(key)) for item in episodes)]
    kept = [{key: value for key, value in recorded[item].items() if key not in dull} for item in episodes]
    frames = sum(int(meta.episodes["length"][item]) for item in episodes)
    return {**aggregate(kept), **{key: _unseen_camera(frames) for key in dull}}


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
    """`feature/statistic` of what a policy may normalise by and an episode lacks.

    Colour cameras may lack theirs, as in recordings that LeRobot's converter made: they take ImageNet's.
    """
    wanted = [key for key in meta.features if key == ACTION or key.startswith(f"{OBS_STR}.")]
    wanted = [key for key in wanted if key not in _plain_cameras(meta)]
    numeric = [key for key in wanted if meta.features[key]["dtype"] not in WITHOUT_STATISTICS]
    return [f"{key}/{name}" for key in numeric for name in STATISTICS if name not in stats.get(key, {})]


def aggregate(stats: list[Stats]) -> Stats:
    """Count-weighted aggregation by LeRobot's `aggregate_stats`; used over episodes and over clients alike."""
    merged: Stats = aggregate_stats(stats)
    return {feature: merged[feature] for feature in sorted(merged)}


def aggregate_clients(stats: list[Stats]) -> Stats:
    """As `aggregate`; a quantile that most clients have is theirs where one lacks it: LeRobot would give nobody any."""
    filled = [{feature: dict(values) for feature, values in item.items()} for item in stats]
    for feature in sorted({feature for item in stats for feature in item}):
        own = [item[feature] for item in filled if feature in item]
        for name in sorted({name for values in own for name in values if name[:1] == "q"}):
            having = [values for values in own if name in values]
            if len(own) < 2 * len(having) < 2 * len(own):
                counts = [float(values["count"][0]) for values in having]
                usual = np.average([values[name] for values in having], axis=0, weights=counts)
                for values in own:
                    values.setdefault(name, usual)
    return aggregate(filled)


def with_imagenet(stats: Stats, meta: LeRobotDatasetMetadata) -> Stats:
    """Replace the cameras' mean and std by ImageNet's, as `lerobot-train` does by default."""
    cameras = [key for key in _plain_cameras(meta) if key in stats]
    return {**stats, **{key: {**stats[key], **_imagenet()} for key in cameras}}


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


def _plain_cameras(meta: LeRobotDatasetMetadata) -> list[str]:
    return [key for key in meta.camera_keys if key not in meta.depth_keys]


def _imagenet() -> dict[str, NDArray[Any]]:
    return {name: np.asarray(value, dtype=np.float32) for name, value in IMAGENET_STATS.items()}


def _is_camera(stats: dict[str, NDArray[Any]] | None) -> bool:
    """Whether these are statistics of a camera that `aggregate_stats` takes."""
    if stats is None or any(name not in stats for name in STATISTICS):
        return False
    shapes = [stats[name].shape for name in STATISTICS if name != "count"]
    whole = all(np.isfinite(value).all() for value in stats.values())
    return whole and set(shapes) <= {(3, 1, 1), (1, 1, 1)} and stats["count"].shape == (1,) and stats["count"][0] > 0


def _unseen_camera(frames: int) -> dict[str, NDArray[Any]]:
    """Statistics of a colour camera of which none are recorded: ImageNet's, and all that a pixel can be."""
    ends = {"min": np.zeros((3, 1, 1)), "max": np.ones((3, 1, 1))}
    return {**ends, **_imagenet(), "count": np.asarray([frames], dtype=np.int64)}


def _stats_of_row(row: dict[str, Any], features: dict[str, Any]) -> Stats:
    stats: Stats = {}
    for key, value in row.items():
        parts = key.split("/")
        if len(parts) != 3 or parts[0] != "stats" or value is None or parts[1] not in features:
            continue
        _, feature, name = parts
        array = _numbers(value, whole=name == "count")
        is_image = features[feature]["dtype"] in ("image", "video") and name != "count"
        stats.setdefault(feature, {})[name] = array.reshape(-1, 1, 1) if is_image else array
    return stats


def _numbers(value: Any, *, whole: bool) -> NDArray[Any]:
    """A recorded statistic; not a number where it is none, which the checks name."""
    try:
        array = np.atleast_1d(np.asarray(value, dtype=np.float64))
    except (ValueError, TypeError):
        return np.full(1, np.nan)
    return array.astype(np.int64) if whole and (np.isfinite(array) & (np.abs(array) < MOST)).all() else array
