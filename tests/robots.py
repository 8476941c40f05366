"""Recordings of other robots, made of the shipped ones: other joints, units, rates and names, with their statistics."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lerobot.datasets.compute_stats import get_feature_stats
from numpy.typing import NDArray

from benchmarks.service import small_run
from tests.recordings import ACTION, STATE, edit_episodes, edit_info, shipped

Values = NDArray[np.float64]
"""Shape (rows, joints)."""
SO101 = ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"]


def robot(
    target: Path,
    change: Callable[[Values], Values],
    names: list[str] | None = None,
    *,
    source: str = "unseen",
    features: tuple[str, ...] = (STATE, ACTION),
    robot_type: str | None = "so101_follower",
) -> Path:
    """A copy of a shipped recording whose states and actions are others.

    Args:
        target: the folder to make.
        change: old values -> new ones, of all rows.
        names: of the joints; as they were when None.
        source: the shipped recording.
        features: those that are changed.
        robot_type: for info.json.
    """
    root = shipped(target, source)
    path = next((root / "data").rglob("*.parquet"))
    rows = pq.read_table(path)
    owner = np.asarray(rows["episode_index"].to_numpy())
    stats: dict[str, list[Any]] = {}
    for key in features:
        values = change(np.array(rows[key].to_pylist(), dtype=np.float64)).astype(np.float32)
        kind = pa.list_(pa.float32(), values.shape[1])
        rows = rows.set_column(rows.column_names.index(key), key, pa.array(values.tolist(), type=kind))
        for episode in np.unique(owner):
            mine = get_feature_stats(values[owner == episode], axis=0, keepdims=False)
            for name, value in mine.items():
                stats.setdefault(f"stats/{key}/{name}", []).append(np.asarray(value).reshape(-1).tolist())
        edit_info(root, lambda info, key=key, size=values.shape[1]: _describe(info["features"][key], size, names))  # type: ignore[misc]
    pq.write_table(rows, path)
    edit_info(root, lambda info: info.update(robot_type=robot_type))
    edit_episodes(root, lambda table: _with_stats(table, stats))
    return root


def slower(root: Path, fps: int) -> Path:
    """A recording in place as if at another rate: its times and videos' are stretched in the metadata."""
    path = next((root / "data").rglob("*.parquet"))
    rows = pq.read_table(path)
    times = np.asarray(rows["frame_index"].to_numpy(), dtype=np.float64) / fps
    place = rows.column_names.index("timestamp")
    pq.write_table(rows.set_column(place, "timestamp", pa.array(times, type=pa.float32())), path)
    edit_info(root, lambda info: info.update(fps=fps))
    return root


def run_of(
    outputs: Path, roots: dict[str, Path], unseen: dict[str, Path] | None = None, **changes: Any
) -> dict[str, Any]:
    """The small run's config with these clients, and these settings that no client trains on."""

    def named(items: dict[str, Path]) -> list[dict[str, Any]]:
        return [{"name": name, "repo_id": f"me/{name}", "root": str(root)} for name, root in items.items()]

    return small_run(
        outputs,
        clients=named(roots),
        evaluation__datasets=named(unseen or {}),
        federation={"num_rounds": 1, "min_train_clients": 1},
        **changes,
    )


def _describe(feature: dict[str, Any], size: int, names: list[str] | None) -> None:
    feature["shape"] = [size]
    if names is not None:
        feature["names"] = names


def _with_stats(table: pa.Table, stats: dict[str, list[Any]]) -> pa.Table:
    for name, values in stats.items():
        column = pa.array(values)
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, column)
        else:
            table = table.append_column(name, column)
    return table


def read_info(root: Path) -> dict[str, Any]:
    """info.json."""
    info: dict[str, Any] = json.loads((root / "meta" / "info.json").read_text())
    return info
