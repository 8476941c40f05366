"""Open, check and split LeRobot datasets, and compute the statistics of chosen episodes."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from lerobot.configs.default import DatasetConfig as LeRobotDatasetConfig
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.train import TrainPipelineConfig
from lerobot.datasets.compute_stats import aggregate_stats
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.factory import make_dataset
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.utils.constants import ACTION, IMAGENET_STATS
from numpy.typing import NDArray

from zk0.config import DataConfig, DatasetConfig, resolve_path
from zk0.errors import DatasetError

Stats = dict[str, dict[str, NDArray[Any]]]
"""Feature -> statistic (`mean`, `std`, `min`, `max`, `count`, quantiles) -> array; LeRobot's own layout."""


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
        meta = LeRobotDatasetMetadata(dataset.repo_id, root=root, revision=dataset.revision)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, ConnectionError) as error:
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


def check_dataset(dataset: DatasetConfig, data: DataConfig, holdout_episodes: int) -> LeRobotDatasetMetadata:
    """Refuse a dataset that would fail, or silently mislead, in training.

    Args:
        dataset: the dataset.
        data: reading options (`tolerance_s`).
        holdout_episodes: episodes that will be held out; 0 for a dataset that is only evaluated.

    Raises:
        DatasetError: names the dataset, what was found and what to do.
    """
    meta = open_metadata(dataset)
    if meta.total_episodes <= holdout_episodes:
        raise DatasetError(
            f"dataset {dataset.name!r}: {meta.total_episodes} episodes, of which evaluation.holdout_episodes = "
            f"{holdout_episodes} would be held out: none is left to train on; record more or lower that key"
        )
    if ACTION not in meta.features:
        raise DatasetError(f"dataset {dataset.name!r}: has no {ACTION!r} feature; it cannot teach a policy")
    _check_files(dataset, meta)
    _check_rows(dataset, meta, data.tolerance_s)
    return meta


def build_dataset(
    dataset: DatasetConfig, policy: PreTrainedConfig, data: DataConfig, episodes: list[int]
) -> LeRobotDataset:
    """Open the frames of some episodes, with the action chunks that the policy asks for (LeRobot's `make_dataset`)."""
    meta = open_metadata(dataset)
    config = TrainPipelineConfig(
        dataset=LeRobotDatasetConfig(
            repo_id=dataset.repo_id,
            root=str(meta.root),
            episodes=episodes,
            revision=dataset.revision,
            video_backend=data.video_backend,
        ),
        policy=policy,
        tolerance_s=data.tolerance_s,
        rename_map=dataset.rename_map,
    )
    return make_dataset(config)


def episode_statistics(meta: LeRobotDatasetMetadata, episodes: list[int]) -> Stats:
    """Statistics of just these episodes: LeRobot's per-episode records, aggregated by its `aggregate_stats`.

    `LeRobotDataset.meta.stats` covers the whole dataset whatever `episodes=` says, so it would leak the hold-out.
    """
    files = sorted((Path(meta.root) / "meta" / "episodes").rglob("*.parquet"))
    wanted = set(episodes)
    rows = [row for file in files for row in pq.read_table(file).to_pylist() if row["episode_index"] in wanted]
    per_episode = [_stats_of_row(row, meta.features) for row in rows]
    if len(per_episode) != len(wanted):
        raise DatasetError(f"{meta.repo_id}: statistics of {len(wanted) - len(per_episode)} episodes are missing")
    return aggregate(per_episode)


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


def _check_files(dataset: DatasetConfig, meta: LeRobotDatasetMetadata) -> None:
    """Every data and video file that the episodes name is there and not empty (local datasets only)."""
    if dataset.root is None:
        return
    names = {meta.get_data_file_path(index) for index in range(meta.total_episodes)}
    names |= {meta.get_video_file_path(i, key) for i in range(meta.total_episodes) for key in meta.video_keys}
    for name in sorted(names):
        file = Path(meta.root) / name
        if not file.is_file() or not file.stat().st_size:
            raise DatasetError(
                f"dataset {dataset.name!r}: {file} is missing or empty; restore it, or record the dataset again"
            )


def _check_rows(dataset: DatasetConfig, meta: LeRobotDatasetMetadata, tolerance_s: float) -> None:
    """Rows, indices and time steps agree with the metadata: doubled rows load silently and train on wrong frames."""
    if dataset.root is None and not (Path(meta.root) / "data").is_dir():
        return  # not fetched yet: LeRobot checks while it downloads
    columns = ["index", "episode_index", "timestamp"]
    try:
        files = sorted((Path(meta.root) / "data").rglob("*.parquet"))
        table = pa.concat_tables([pq.read_table(file, columns=columns) for file in files])
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(
            f"dataset {dataset.name!r}: a data file cannot be read ({_first_line(error)}); restore it"
        ) from error
    lengths = sum(meta.episodes["length"])
    if not len(table) == meta.total_frames == lengths:
        raise DatasetError(
            f"dataset {dataset.name!r}: {len(table)} rows, but info.json says {meta.total_frames} frames and the "
            f"episodes add up to {lengths}; frames are doubled or lost: record or convert the dataset again"
        )
    index, episode, timestamp = (table[name].to_numpy().reshape(-1) for name in columns)
    if not np.array_equal(index, np.arange(len(index))):
        raise DatasetError(f"dataset {dataset.name!r}: the index column does not count 0, 1, 2, ...; convert it again")
    steps = np.diff(timestamp)[np.diff(episode) == 0]
    worst = float(np.abs(steps - 1 / meta.fps).max()) if len(steps) else 0.0
    if worst > tolerance_s:
        raise DatasetError(
            f"dataset {dataset.name!r}: a time step is off 1/fps by {worst:.6f} s, more than data.tolerance_s = "
            f"{tolerance_s}; correct the time stamps, or raise that key if the recording is meant so"
        )


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
