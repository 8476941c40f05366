"""Write a copy of a dataset in today's format, without doubled frames, with true statistics; the original stays."""

import io
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import snapshot_download
from lerobot.configs.video import encoder_config_from_video_info
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.datasets.video_utils import decode_video_frames_pyav
from lerobot.utils.constants import DEFAULT_FEATURES
from PIL import Image

from zk0.config import DatasetConfig, RunConfig
from zk0.data.checks import rows_to_drop
from zk0.data.convert import convert, copy_dataset, record_statistics
from zk0.data.datasets import open_metadata, unfetched
from zk0.data.hub import HUB_ERRORS, patiently
from zk0.data.statistics_checks import check_statistics
from zk0.data.subject import Doubles, Subject, open_subject
from zk0.data.versions import OldFormatError
from zk0.data.videos import Timeline
from zk0.errors import ConfigError, DatasetError

FRAMES_AT_ONCE = 64
"""Decoded frames held in memory: 640 x 480 pixels of two cameras are 1.8 MB each."""


def converted(config: RunConfig, folder: Path) -> RunConfig:
    """Write `folder/<name>` for every dataset of an older format, in the format that LeRobot reads.

    Returns:
        The config with the copies in the place of their originals.

    Raises:
        ConfigError: a copy's folder exists.
        DatasetError: LeRobot's converter cannot take one.
    """
    return _each(config, lambda dataset: _converted(dataset, folder.absolute() / dataset.name))


def corrected(config: RunConfig, folder: Path) -> RunConfig:
    """Write `folder/<name>` for every dataset with doubled frames, or with statistics that are not its rows'.

    Returns:
        The config with the copies in the place of their originals.

    Raises:
        ConfigError: a copy's folder exists.
        DatasetError: a dataset that LeRobot's recorder cannot take again.
    """
    return _each(config, lambda dataset: _corrected(config, dataset, folder.absolute() / dataset.name))


def _each(config: RunConfig, change: Callable[[DatasetConfig], DatasetConfig]) -> RunConfig:
    evaluation = config.evaluation.model_copy(update={"datasets": list(map(change, config.evaluation.datasets))})
    return config.model_copy(update={"clients": list(map(change, config.clients)), "evaluation": evaluation})


def _converted(dataset: DatasetConfig, target: Path) -> DatasetConfig:
    try:
        open_metadata(dataset)
    except OldFormatError as error:
        with _copy(target) as scratch:
            return _moved(dataset, convert(dataset, error.root or fetched(dataset, error), scratch), target)
    except DatasetError:
        pass  # the checks that follow say why
    return dataset


def fetched(dataset: DatasetConfig, old: OldFormatError) -> Path:
    """The hub's copy of an old recording, in the hub's own cache.

    Raises:
        DatasetError: it cannot be fetched.
    """
    revision = dataset.revision or f"v{old.version}"
    try:
        return Path(
            patiently(
                lambda: snapshot_download(dataset.repo_id, repo_type="dataset", revision=revision), dataset.repo_id
            )
        )
    except HUB_ERRORS as error:
        raise unfetched(dataset, error) from error


def _corrected(config: RunConfig, dataset: DatasetConfig, target: Path) -> DatasetConfig:
    try:
        subject, _ = open_subject(config, dataset)
    except DatasetError:
        return dataset  # the checks that follow say why
    if not len(subject.rows):
        return dataset
    doubled = rows_to_drop(subject)
    stale = check_statistics(subject).verdict != "ok"
    if not doubled.any() and not stale:
        return dataset
    with _copy(target, ours=dataset.root == str(target)) as scratch:
        copy = scratch / "copy"
        if doubled.any():
            _drop(subject, doubled, copy)
        else:
            copy_dataset(Path(subject.meta.root), copy)
            record_statistics(copy, subject.meta.features)
        return _moved(dataset, copy, target)


@contextmanager
def _copy(target: Path, *, ours: bool = False) -> Iterator[Path]:
    """A scratch folder beside a copy that is to be: the copy appears whole or not at all.

    Raises:
        ConfigError: the copy's folder exists, and is not one that we have just made.
    """
    if target.exists() and not ours:
        raise ConfigError(f"--fix-to {str(target.parent)!r}: {target} exists; choose a folder without it")
    new = not target.parent.exists()
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with TemporaryDirectory(prefix=".zk0-", dir=target.parent) as scratch:
            yield Path(scratch)
    finally:
        if new and not any(target.parent.iterdir()):
            target.parent.rmdir()


def _moved(dataset: DatasetConfig, copy: Path, target: Path) -> DatasetConfig:
    if target.exists():
        shutil.rmtree(target)
    copy.rename(target)
    return dataset.model_copy(update={"root": str(target), "revision": None})


def _drop(subject: Subject, doubled: Doubles, target: Path) -> None:
    """Write a copy without the doubled rows."""
    columns = [pq.read_table(file) for file in sorted((Path(subject.meta.root) / "data").glob("*/*.parquet"))]
    kept = pa.concat_tables(columns).filter(pa.array(~doubled))
    order = [("episode_index", "ascending"), ("frame_index", "ascending")]
    if _as_recorded(subject, kept):
        _replace_rows(subject, kept.sort_by(order), target)
    else:
        _record_again(subject, kept.sort_by(order), target)


def _as_recorded(subject: Subject, kept: pa.Table) -> bool:
    """Whether metadata and videos are those of the rows that are kept: then nothing need be encoded again."""
    episodes, counts = np.unique(kept["episode_index"].to_numpy(), return_counts=True)
    meta = subject.meta.episodes
    recorded = list(zip(meta["episode_index"], meta["length"], strict=True))
    return recorded == list(zip(episodes.tolist(), counts.tolist(), strict=True))


def _replace_rows(subject: Subject, kept: pa.Table, target: Path) -> None:
    """Copy all but the rows, and write those that are kept to the files that the metadata name."""
    root = Path(subject.meta.root)
    copy_dataset(root, target)
    files: dict[Path, list[int]] = {}
    for episode in subject.meta.episodes["episode_index"]:
        files.setdefault(subject.meta.get_data_file_path(episode), []).append(episode)
    place = kept.column_names.index("index")
    counted = pa.array(np.arange(len(kept)), type=kept.schema.field("index").type)
    kept = kept.set_column(place, kept.schema.field("index"), counted)
    for file, episodes in files.items():
        mine = np.isin(kept["episode_index"].to_numpy(), episodes)
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
