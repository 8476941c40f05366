"""Write a corrected copy of a dataset whose frames are doubled; the original is only read."""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lerobot.configs.video import encoder_config_from_video_info
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.datasets.video_utils import decode_video_frames_pyav
from lerobot.utils.constants import DEFAULT_FEATURES
from PIL import Image

from zk0.config import DatasetConfig, RunConfig
from zk0.data.checks import rows_to_drop
from zk0.data.subject import Subject, open_subject
from zk0.data.videos import Timeline
from zk0.errors import ConfigError, DatasetError

FRAMES_AT_ONCE = 64
"""Decoded frames held in memory: 640 x 480 pixels of two cameras are 1.8 MB each."""


def without_doubled_frames(config: RunConfig, folder: Path) -> RunConfig:
    """Write `folder/<name>` for every dataset with doubled frames.

    Returns:
        The config with the copies in the place of their originals.

    Raises:
        ConfigError: a copy's folder exists.
        DatasetError: a dataset that LeRobot's recorder cannot take again.
    """
    groups = {
        "clients": [_corrected(config, item, folder) for item in config.clients],
        "datasets": [_corrected(config, item, folder) for item in config.evaluation.datasets],
    }
    evaluation = config.evaluation.model_copy(update={"datasets": groups["datasets"]})
    return config.model_copy(update={"clients": groups["clients"], "evaluation": evaluation})


def _corrected(config: RunConfig, dataset: DatasetConfig, folder: Path) -> DatasetConfig:
    try:
        subject, _ = open_subject(config, dataset)
    except DatasetError:
        return dataset  # the checks that follow say why
    doubled = rows_to_drop(subject) if len(subject.rows) else np.zeros(0, dtype=bool)
    if not doubled.any():
        return dataset
    target = folder.absolute() / dataset.name
    if target.exists():
        raise ConfigError(f"--fix-to {str(folder)!r}: {target} exists; choose a folder without it")
    files = sorted((Path(subject.meta.root) / "data").rglob("*.parquet"))
    kept = pa.concat_tables([pq.read_table(file) for file in files]).filter(pa.array(~doubled))
    order = [("episode_index", "ascending"), ("frame_index", "ascending")]
    if _as_recorded(subject, kept):
        _replace_rows(subject, kept.sort_by(order), target)
    else:
        _record_again(subject, kept.sort_by(order), target)
    return dataset.model_copy(update={"root": str(target), "revision": None})


def _as_recorded(subject: Subject, kept: pa.Table) -> bool:
    """Whether metadata and videos are those of the rows that are kept: then nothing need be encoded again."""
    episodes, counts = np.unique(kept["episode_index"].to_numpy(), return_counts=True)
    meta = subject.meta.episodes
    recorded = list(zip(meta["episode_index"], meta["length"], strict=True))
    return recorded == list(zip(episodes.tolist(), counts.tolist(), strict=True))


def _replace_rows(subject: Subject, kept: pa.Table, target: Path) -> None:
    """Copy all but the rows, and write those that are kept to the files that the metadata name."""
    root = Path(subject.meta.root)
    shutil.copytree(root, target, ignore=shutil.ignore_patterns(".cache"))
    files: dict[Path, list[int]] = {}
    for episode in subject.meta.episodes["episode_index"]:
        files.setdefault(subject.meta.get_data_file_path(episode), []).append(episode)
    place = kept.column_names.index("index")
    counted = pa.array(np.arange(len(kept)), type=kept.schema.field("index").type)
    kept = kept.set_column(place, kept.schema.field("index"), counted)
    for file, episodes in files.items():
        mine = np.isin(kept["episode_index"].to_numpy(), episodes)
        (target / file).unlink()  # a link in a hub cache must not be written through
        pq.write_table(kept.filter(pa.array(mine)), target / file)


def _record_again(subject: Subject, kept: pa.Table, target: Path) -> None:
    """Play the frames that are kept to LeRobot's own recorder: times, videos and statistics are made anew."""
    meta = subject.meta
    features = {key: value for key, value in meta.features.items() if key not in DEFAULT_FEATURES}
    if odd := [key for key in features if key in meta.depth_keys or features[key]["dtype"] == "language"]:
        raise DatasetError(
            f"dataset {subject.dataset.name!r}: doubled frames cannot be dropped beside {odd[0]!r} (a depth map or "
            "annotations), which LeRobot's recorder cannot take again; record the dataset again"
        )
    info = meta.features[meta.video_keys[0]].get("info") if meta.video_keys else None
    copy = LeRobotDataset.create(
        meta.repo_id,
        meta.fps,
        features,
        root=target,
        robot_type=meta.robot_type,
        use_videos=bool(meta.video_keys),
        video_backend="pyav",
        rgb_encoder=encoder_config_from_video_info(info) if info else None,
    )
    try:
        for episode in np.unique(kept["episode_index"].to_numpy()).tolist():
            rows = kept.filter(pa.array(kept["episode_index"].to_numpy() == episode))
            for first in range(0, len(rows), FRAMES_AT_ONCE):
                for frame in _frames(subject, episode, rows.slice(first, FRAMES_AT_ONCE), features):
                    copy.add_frame(frame)
            copy.save_episode(parallel_encoding=False)
    finally:
        copy.finalize()


def _frames(
    subject: Subject, episode: int, rows: pa.Table, features: dict[str, dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Some frames of an episode as LeRobot's recorder takes them; pictures as (height, width, channels), 0-255."""
    meta = subject.meta
    timestamps = np.asarray(rows["timestamp"].to_numpy(), dtype=np.float64).reshape(-1)
    timeline = Timeline(meta, {episode: timestamps}, subject.config.data.tolerance_s)
    videos = {}
    for camera in meta.video_keys:
        file, times = timeline.place(camera, episode)
        decoded = decode_video_frames_pyav(file, times.tolist(), timeline.tolerance_s, return_uint8=True)
        videos[camera] = decoded.permute(0, 2, 3, 1).numpy()
    for number, row in enumerate(rows.to_pylist()):
        frame = {key: _value(row[key], feature) for key, feature in features.items() if key not in videos}
        frame |= {camera: pictures[number] for camera, pictures in videos.items()}
        yield {**frame, "task": str(meta.tasks.iloc[row["task_index"]].name)}


def _value(cell: Any, feature: dict[str, Any]) -> Any:
    if feature["dtype"] == "image":
        return np.asarray(Image.open(io.BytesIO(cell["bytes"])))
    if feature["dtype"] == "string":
        return cell
    return np.asarray(cell, dtype=feature["dtype"]).reshape(feature["shape"])
