"""Recordings as people bring them, made by code from the shipped ones: older formats, other storage, single faults."""

import io
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.video_utils import decode_video_frames_pyav
from lerobot.utils.utils import unflatten_dict
from PIL import Image

from zk0.config import resolve_path
from zk0.data.convert import record_statistics

STATE, ACTION = "observation.state", "action"
FRONT, WRIST = "observation.images.front", "observation.images.wrist"
Table = Callable[[pa.Table], pa.Table]


def shipped(target: Path, name: str = "unseen") -> Path:
    """A private copy of a shipped recording: `unseen` has 12 episodes, two cameras, an environment's state."""
    shutil.copytree(resolve_path(f"asset:datasets/{name}"), target)
    return target


def edit_info(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change info.json's content in place."""
    path = root / "meta" / "info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


def edit_table(path: Path, change: Table) -> None:
    """Change a parquet file."""
    pq.write_table(change(pq.read_table(path)), path)


def edit_rows(root: Path, change: Table) -> None:
    """Change the rows of a recording of one data file."""
    edit_table(next((root / "data").rglob("*.parquet")), change)


def edit_episodes(root: Path, change: Table) -> None:
    """Change the table of episodes."""
    edit_table(next((root / "meta" / "episodes").rglob("*.parquet")), change)


def with_column(table: pa.Table, name: str, values: Iterable[Any], kind: pa.DataType | None = None) -> pa.Table:
    """A table with other values in a column, of its type or another."""
    place = table.column_names.index(name)
    kind = kind or table.schema.field(name).type
    return table.set_column(place, name, pa.array(list(values), type=kind))


def edit_cell(root: Path, name: str, row: int, value: Any, *, episodes: bool = False) -> None:
    """Change one cell of the rows, or of the table of episodes."""

    def change(table: pa.Table) -> pa.Table:
        values = table[name].to_pylist()
        values[row] = value
        return with_column(table, name, values)

    (edit_episodes if episodes else edit_rows)(root, change)


def as_old(source: Path, target: Path, version: str = "v2.1", *, episodes: int = 4, images: bool = False) -> Path:
    """A recording in LeRobot's format v2: a data file and videos for each episode, lists of lines in meta/.

    Args:
        source: a recording of today's format.
        target: the folder to make.
        version: `v2.0` has one stats.json and no statistics of episodes.
        episodes: the first ones are taken.
        images: pictures lie in the rows, not in videos.
    """
    meta = LeRobotDatasetMetadata("zk0/source", root=source)
    rows = pa.concat_tables([pq.read_table(file) for file in sorted((source / "data").rglob("*.parquet"))])
    recorded = pa.concat_tables([pq.read_table(file) for file in sorted((source / "meta/episodes").rglob("*.parquet"))])
    (target / "meta").mkdir(parents=True)
    (target / "data" / "chunk-000").mkdir(parents=True)
    lines, stats = [], []
    for number, row in enumerate(recorded.to_pylist()[:episodes]):
        mine = rows.filter(pa.array(rows["episode_index"].to_numpy() == number))
        mine = _with_pictures(meta, row, mine, target, images=images)
        pq.write_table(mine, target / "data" / "chunk-000" / f"episode_{number:06d}.parquet")
        lines.append({"episode_index": number, "tasks": row["tasks"], "length": row["length"]})
        flat = {key.removeprefix("stats/"): value for key, value in row.items() if key.startswith("stats/")}
        stats.append({"episode_index": number, "stats": unflatten_dict(flat)})
    write_lines(target / "meta" / "tasks.jsonl", [{"task_index": i, "task": t} for i, t in enumerate(meta.tasks.index)])
    write_lines(target / "meta" / "episodes.jsonl", lines)
    if version == "v2.0":
        shutil.copy(source / "meta" / "stats.json", target / "meta" / "stats.json")
    else:
        write_lines(target / "meta" / "episodes_stats.jsonl", stats)
    info = _old_info(json.loads((source / "meta" / "info.json").read_text()), meta.video_keys if images else [])
    info |= {"codebase_version": version, "total_episodes": episodes, "splits": {"train": f"0:{episodes}"}}
    info |= {"total_frames": sum(line["length"] for line in lines)}
    (target / "meta" / "info.json").write_text(json.dumps(info))
    return target


def _with_pictures(
    meta: LeRobotDatasetMetadata, row: dict[str, Any], rows: pa.Table, target: Path, *, images: bool
) -> pa.Table:
    """Write an episode's videos, or give its rows with the pictures."""
    number = row["episode_index"]
    for camera in meta.video_keys:
        start = float(row[f"videos/{camera}/from_timestamp"])
        times = (start + np.asarray(rows["timestamp"].to_numpy(), dtype=np.float64).reshape(-1)).tolist()
        file = meta.root / meta.get_video_file_path(number, camera)
        pictures = decode_video_frames_pyav(file, times, 1e-3, return_uint8=True).permute(0, 2, 3, 1).numpy()
        if images:
            cells = [{"bytes": png(picture), "path": None} for picture in pictures]
            kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
            rows = rows.append_column(camera, pa.array(cells, type=kind))
        else:
            video(target / f"videos/chunk-000/{camera}/episode_{number:06d}.mp4", pictures, int(meta.fps))
    return rows


def _old_info(info: dict[str, Any], pictures: list[str]) -> dict[str, Any]:
    """info.json as v2 has it; `pictures` are the cameras that lie in the rows."""
    for name in ("data_files_size_in_mb", "video_files_size_in_mb"):
        info.pop(name, None)
    for camera in pictures:
        info["features"][camera] = {**info["features"][camera], "dtype": "image"}
        info["features"][camera].pop("info", None)
    videos = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    return {
        **info,
        "total_chunks": 1,
        "total_videos": 0,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": None if pictures else videos,
    }


def write_lines(path: Path, lines: Iterable[Any]) -> None:
    """A JSON value in each line."""
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def video(path: Path, pictures: np.ndarray, fps: int, codec: str = "libx264") -> None:
    """Encode pictures, shape (frames, height, width, 3), 0-255."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = cast("av.VideoStream", container.add_stream(codec, rate=fps, options={"g": "2"}))
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def png(picture: np.ndarray) -> bytes:
    """A picture as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="png")
    return file.getvalue()


def first_episodes(root: Path, episodes: int) -> Path:
    """Leave the first episodes of a recording; their videos stay longer than they are."""
    edit_rows(root, lambda rows: rows.filter(pa.array(rows["episode_index"].to_numpy() < episodes)))
    edit_episodes(root, lambda table: table.slice(0, episodes))
    frames = pq.read_table(next((root / "meta" / "episodes").rglob("*.parquet")))["length"].to_pylist()
    counts = {"total_episodes": episodes, "total_frames": sum(frames), "splits": {"train": f"0:{episodes}"}}
    edit_info(root, lambda info: info.update(counts))
    return root


def shorten(root: Path, episode: int, frames: int) -> None:
    """Leave the first frames of an episode; its pictures stay where they are."""
    table = pq.read_table(next((root / "meta" / "episodes").rglob("*.parquet")))
    lengths = [frames if row == episode else length for row, length in enumerate(table["length"].to_pylist())]
    ends = np.cumsum(lengths)
    for name, values in (("length", lengths), ("dataset_from_index", ends - lengths), ("dataset_to_index", ends)):
        edit_episodes(root, lambda table, name=name, values=values: with_column(table, name, values))  # type: ignore[misc]

    def cut(rows: pa.Table) -> pa.Table:
        gone = (rows["episode_index"].to_numpy() == episode) & (rows["frame_index"].to_numpy() >= frames)
        kept = rows.filter(pa.array(~gone))
        return with_column(kept, "index", range(len(kept)))

    edit_rows(root, cut)
    edit_info(root, lambda info: info.update(total_frames=int(ends[-1])))
    record_statistics(root, json.loads((root / "meta" / "info.json").read_text())["features"])
