"""Convert a recording of LeRobot's format v2 into the one that this LeRobot reads; the original is only read.

LeRobot's own converter does it, in a folder of links to the recording: it renames what it is given. What v2.0 lacks, or
tools leave out, is made before: statistics of each episode, counts in info.json.
"""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from av.error import FFmpegError
from datasets.exceptions import DatasetsError
from lerobot.datasets.compute_stats import compute_episode_stats
from lerobot.datasets.dataset_metadata import CODEBASE_VERSION
from lerobot.datasets.utils import serialize_dict
from lerobot.scripts.convert_dataset_v21_to_v30 import convert_dataset
from lerobot.utils.utils import flatten_dict

from zk0.config import DatasetConfig
from zk0.data.faults import fault, read_json, require, shown
from zk0.data.statistics import WITHOUT_STATISTICS
from zk0.data.templates import template_fault
from zk0.data.versions import KEY, is_new_layout, is_old_layout
from zk0.errors import first_line

OLD_DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
OLD_VIDEO = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
"""Where v2 keeps an episode, if its info.json does not say otherwise; the converter looks nowhere else."""
OLD_PLACE = ("episode_chunk", "episode_index")
STOPS = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError, StopIteration),
    *(pa.ArrowException, DatasetsError, FFmpegError),
)
"""What the converter raises on recordings that it cannot take."""
RESTORE = "restore it from the original, or record the dataset again"
PICTURES = ("image", "video")


class Old(NamedTuple):
    """A recording of format v2."""

    dataset: DatasetConfig
    root: Path
    info: dict[str, Any]
    lengths: dict[int, int]
    """Episode -> frames."""

    def files(self, key: str | None = None) -> dict[int, Path]:
        """The data file of each episode, or its video of a camera."""
        name, default = ("data_path", OLD_DATA) if key is None else ("video_path", OLD_VIDEO)
        template, size = self.info.get(name) or default, self.info.get("chunks_size") or 1000
        where = self.root / "meta" / "info.json"
        if not isinstance(size, int) or size < 0:
            raise fault(self.dataset, where, f"chunks_size = {shown(size)} is no whole number above 0", "write 1000")
        cameras = None if key is None else [key]
        if (found := template_fault(name, template, OLD_PLACE, default, cameras)) is not None:
            raise fault(self.dataset, where, *found)
        fields = {"video_key": key or ""}
        return {
            number: self.root / template.format(episode_chunk=number // size, episode_index=number, **fields)
            for number in self.lengths
        }


def convert(dataset: DatasetConfig, root: Path, scratch: Path) -> Path:
    """Convert a recording; what is written lies in `scratch`, on the disk where the copy is wanted.

    Returns:
        The converted dataset's folder.

    Raises:
        DatasetError: the recording contradicts itself, or LeRobot's converter cannot take it.
    """
    if is_new_layout(root) and not is_old_layout(root):
        return _labelled(dataset, root, scratch / "recording")
    links = scratch / "recording"
    try:
        old = _opened(dataset, root)
        _link(old, links)
        convert_dataset(dataset.repo_id, root=links, push_to_hub=False)
        _keep_fps(links, old.info["fps"])
    except STOPS as error:
        why = f"LeRobot's converter cannot take it ({type(error).__name__}: {first_line(error)})"
        raise fault(dataset, root, why, RESTORE) from error
    return links


def copy_dataset(root: Path, copy: Path) -> None:
    """Copy a dataset's files, not their rights: the original may be read-only, and a link into the hub's cache."""
    for file in sorted(root.rglob("*")):
        place = file.relative_to(root)
        if file.is_file() and ".cache" not in place.parts:
            (copy / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy / place)


def record_statistics(root: Path, features: dict[str, Any]) -> None:
    """Write the statistics of every episode's rows into meta/episodes, in place of those of its numbers."""
    files = sorted((root / "data").glob("*/*.parquet"))
    names = [key for key, feature in features.items() if feature["dtype"] not in PICTURES]
    rows = pa.concat_tables([pq.read_table(file, columns=names) for file in files], promote_options="permissive")
    owner = rows["episode_index"].to_numpy()
    for file in sorted((root / "meta" / "episodes").glob("*/*.parquet")):
        table = pq.read_table(file)
        found = [
            flatten_dict({"stats": row_statistics(rows.filter(pa.array(owner == number)), features)})
            for number in table["episode_index"].to_pylist()
        ]
        for name in found[0]:
            column = pa.array([np.atleast_1d(stats[name]).tolist() for stats in found])
            place = table.column_names.index(name) if name in table.column_names else len(table.column_names)
            table = table.drop_columns([name]) if name in table.column_names else table
            table = table.add_column(place, name, column)
        pq.write_table(table, file)


def _labelled(dataset: DatasetConfig, root: Path, copy: Path) -> Path:
    """A copy of a dataset of today's format whose info.json names an older one."""
    copy_dataset(root, copy)
    info = read_json(dataset, root / "meta" / "info.json")
    (copy / "meta" / "info.json").write_text(json.dumps({**info, KEY: CODEBASE_VERSION}, indent=4))
    return copy


def _opened(dataset: DatasetConfig, root: Path) -> Old:
    """Read what v2 says of its episodes, and see that it agrees with its files."""
    meta = root / "meta"
    info = read_json(dataset, meta / "info.json")
    if not isinstance(info, dict) or not isinstance(info.get("features"), dict) or "fps" not in info:
        raise fault(dataset, meta / "info.json", "names no features, or no fps", RESTORE)
    episodes, tasks = (_lines(dataset, meta / f"{name}.jsonl") for name in ("episodes", "tasks"))
    for name, lines, key in (("episodes", episodes, "episode_index"), ("tasks", tasks, "task_index")):
        numbers = sorted(line.get(key, -1) for line in lines)
        if numbers != list(range(len(lines))):
            seen = f"{key} does not count 0, 1, 2, ...: {shown(numbers)}"
            raise fault(dataset, meta / f"{name}.jsonl", seen, RESTORE)
    lengths = {int(line["episode_index"]): int(line["length"]) for line in episodes}
    old = Old(dataset, root, info, dict(sorted(lengths.items())))
    for number, file in old.files().items():
        require(dataset, file)
        rows = _opened_parquet(dataset, file).metadata.num_rows
        if rows != old.lengths[number]:
            seen = f"has {rows} rows, but meta/episodes.jsonl says that episode {number} has {old.lengths[number]}"
            raise fault(dataset, file, seen, RESTORE)
    return old


def _lines(dataset: DatasetConfig, file: Path) -> list[dict[str, Any]]:
    require(dataset, file)
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError, RecursionError) as error:
        raise fault(dataset, file, f"is damaged ({first_line(error)})", RESTORE) from error
    if odd := [line for line in lines if not isinstance(line, dict)]:
        raise fault(dataset, file, f"is damaged (a line is {shown(odd[0])})", RESTORE)
    return lines


def _opened_parquet(dataset: DatasetConfig, file: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise fault(dataset, file, f"cannot be read ({first_line(error)})", RESTORE) from error


def _link(old: Old, links: Path) -> None:
    """A folder as the converter wants it: its own meta/, and links to the files of every episode."""
    meta = links / "meta"
    meta.mkdir(parents=True)
    for name in ("episodes.jsonl", "tasks.jsonl"):
        shutil.copyfile(old.root / "meta" / name, meta / name)
    cameras = [key for key, feature in old.info["features"].items() if feature.get("dtype") == "video"]
    counted = {"total_chunks": 1, "total_videos": len(old.lengths) * len(cameras), "video_path": None}
    info = {**counted, **old.info, KEY: "v2.1", "chunks_size": old.info.get("chunks_size") or 1000}
    info |= {"video_path": OLD_VIDEO if cameras else None, "fps": max(1, int(old.info["fps"]))}
    (meta / "info.json").write_text(json.dumps(info))
    for key, template in ((None, OLD_DATA), *((camera, OLD_VIDEO) for camera in cameras)):
        for number, file in old.files(key).items():
            require(old.dataset, file)
            link = links / template.format(episode_chunk=number // 1000, episode_index=number, video_key=key)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.resolve())
    lines = _statistics(old)
    (meta / "episodes_stats.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def _statistics(old: Old) -> list[dict[str, Any]]:
    """The recorded statistics of all episodes; v2.0 has none of single episodes, so they are made of the rows."""
    file = old.root / "meta" / "episodes_stats.jsonl"
    if file.exists():
        lines = _lines(old.dataset, file)
        if sorted(line.get("episode_index", -1) for line in lines) == list(old.lengths):
            return lines
    return [
        {"episode_index": number, "stats": serialize_dict(row_statistics(pq.read_table(data), old.info["features"]))}
        for number, data in old.files().items()
    ]


def row_statistics(rows: pa.Table, features: dict[str, Any]) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    """LeRobot's statistics of an episode's numbers, without its pictures."""
    numeric = [
        key
        for key, feature in features.items()
        if feature["dtype"] not in (*PICTURES, *WITHOUT_STATISTICS) and key in rows.column_names
    ]
    found = compute_episode_stats({key: np.asarray(rows[key].to_pylist()) for key in numeric}, features)
    return {key: found[key] for key in numeric}


def _keep_fps(root: Path, fps: float) -> None:
    """The converter cuts 29.97 to 29."""
    file = root / "meta" / "info.json"
    info = json.loads(file.read_text())
    if info["fps"] != fps:
        features = {
            key: {**value, **({"fps": fps} if "fps" in value else {})} for key, value in info["features"].items()
        }
        file.write_text(json.dumps({**info, "fps": fps, "features": features}, indent=4))
