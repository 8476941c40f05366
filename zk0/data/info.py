"""What meta/info.json must say before anything is read by it."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lerobot.datasets.feature_utils import get_hf_features_from_features
from lerobot.datasets.language import is_language_column
from lerobot.datasets.utils import DEFAULT_DATA_PATH, DEFAULT_VIDEO_PATH

from zk0.config import DatasetConfig
from zk0.data.faults import fault, read_json, shown
from zk0.data.templates import template_fault
from zk0.data.versions import check_version
from zk0.errors import first_line

COUNTS = ("total_episodes", "total_frames", "total_tasks")
SIZES = ("chunks_size", "data_files_size_in_mb", "video_files_size_in_mb")
"""What LeRobot wants to be above 0 where it is given."""
PICTURES = ("image", "video")
INDICES = ("index", "episode_index", "frame_index", "task_index")
"""Whole numbers, one in a row: LeRobot looks frames, episodes and tasks up by them."""
PLACE = ("chunk_index", "file_index")
RESTORE = "restore it, or record or convert the dataset again"


def check_info(dataset: DatasetConfig, root: Path) -> dict[str, Any]:
    """Read meta/info.json, and see that LeRobot can be handed it.

    Returns:
        Its content.

    Raises:
        DatasetError: names the key, its value and the remedy.
    """
    file = root / "meta" / "info.json"
    info = read_json(dataset, file)
    if not isinstance(info, dict):
        raise fault(dataset, file, f"is damaged (it holds {shown(info)}, not keys and values)")
    check_version(dataset, root, info)
    for what, remedy in _faults(info):
        raise fault(dataset, file, what, remedy)
    return info


def _faults(info: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """What is wrong with the keys, and what to do; in the order in which it matters."""
    for key in ("fps", "features"):
        if key not in info:
            yield f"has no {key!r}", RESTORE
    yield from _of_numbers(info)
    features = info["features"]
    if not isinstance(features, dict) or not features:
        yield f"features = {shown(features)} names no feature", RESTORE
    for key, feature in features.items():
        yield from _of_feature(key, feature)
    yield from _of_paths(info)
    for key in INDICES:
        if key in features and (tuple(features[key]["shape"]) != (1,) or "int" not in features[key]["dtype"]):
            yield f"features.{key} = {shown(features[key])} is no single whole number", RESTORE


def _of_numbers(info: dict[str, Any]) -> Iterable[tuple[str, str]]:
    if not _is_number(info["fps"]) or info["fps"] <= 0:
        yield f"fps = {shown(info['fps'])} is no number above 0", "write how many frames were recorded in a second"
    for key in COUNTS:
        value = info.get(key, 0)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            yield f"{key} = {shown(value)} is no whole number from 0 on", RESTORE
    for key in SIZES:
        if key in info and (not _is_number(info[key]) or info[key] <= 0):
            yield f"{key} = {shown(info[key])} is no number above 0", RESTORE


def _of_paths(info: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """Where the files lie; where it is left out LeRobot has its own."""
    cameras = [key for key, feature in info["features"].items() if feature["dtype"] == "video"]
    found = [template_fault("data_path", info["data_path"], PLACE, DEFAULT_DATA_PATH)] if "data_path" in info else []
    if cameras and "video_path" in info:
        found.append(template_fault("video_path", info["video_path"], PLACE, DEFAULT_VIDEO_PATH, cameras))
    yield from (item for item in found if item is not None)


def _of_feature(key: str, feature: Any) -> Iterable[tuple[str, str]]:
    """Type and shape of a feature: what LeRobot makes columns of."""
    if not isinstance(feature, dict) or not isinstance(feature.get("dtype"), str):
        yield f"features.{key} = {shown(feature)} has no dtype", RESTORE
        return
    if is_language_column(key):
        return
    shape = feature.get("shape")
    if not isinstance(shape, list) or not shape or not all(_is_size(size) for size in shape):
        yield f"features.{key}.shape = {shown(shape)} is no list of sizes", "write how many numbers a row has"
        return
    if feature["dtype"] in PICTURES and len(shape) != 3:
        yield f"features.{key}.shape = {shown(shape)} is no height, width and channels", RESTORE
    for name in ("info", "video_info"):
        if not isinstance(feature.get(name), dict | None):
            yield f"features.{key}.{name} = {shown(feature[name])} holds no keys and values", RESTORE
    try:
        get_hf_features_from_features({key: {**feature, "shape": tuple(shape)}})
    except (ValueError, TypeError, KeyError) as error:
        yield f"features.{key} = {shown(feature)} is no column that LeRobot knows ({first_line(error)})", RESTORE


def _is_size(value: Any) -> bool:
    return _is_number(value) and isinstance(value, int) and value > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
