"""The tables of meta/: tasks.parquet and episodes/, which must agree with info.json and with themselves."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from zk0.config import DatasetConfig
from zk0.data.faults import RECORD_AGAIN, fault, require, shown, to_restore
from zk0.errors import first_line

COUNTED = ("episode_index", "length", "dataset_from_index", "dataset_to_index", "data/chunk_index", "data/file_index")
"""Whole numbers that every episode has."""
CONVERT = "record or convert the dataset again with LeRobot's own tools"
AS_INDEX = (
    "`python -c \"import pandas as pd; pd.read_parquet('{file}').set_index('task').to_parquet('{file}')\"` makes the "
    "column the index"
)


def read_table(dataset: DatasetConfig, file: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a parquet file.

    Raises:
        DatasetError: it is missing, a git-lfs pointer, or cut short.
    """
    require(dataset, file)
    try:
        return pq.read_table(file, columns=list(columns) if columns is not None else None)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise fault(dataset, file, f"cannot be read ({first_line(error)})", to_restore(file)) from error


def check_tasks(dataset: DatasetConfig, root: Path, info: dict[str, Any]) -> None:
    """The tasks' texts are the index of tasks.parquet, in the order of their numbers: LeRobot looks them up by place.

    Raises:
        DatasetError: names the file, what is wrong and the remedy.
    """
    file = root / "meta" / "tasks.parquet"
    require(dataset, file)
    try:
        tasks = pq.read_table(file).to_pandas()
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise fault(dataset, file, f"cannot be read ({first_line(error)})") from error
    if not all(isinstance(text, str) for text in tasks.index):
        if "task" in tasks.columns:
            seen = "has the tasks' texts in a column, not as the index, so that LeRobot takes their numbers for tasks"
            raise fault(dataset, file, seen, AS_INDEX.format(file=file))
        odd = next(text for text in tasks.index if not isinstance(text, str))
        raise fault(dataset, file, f"has {shown(odd)} for the text of a task in its index", CONVERT)
    numbers = tasks["task_index"].tolist() if "task_index" in tasks.columns else list(range(len(tasks)))
    for place, number in enumerate(numbers):
        if not isinstance(number, int | float) or number != place:
            seen = f"task_index is {shown(number)} in row {place}, but LeRobot looks tasks up by their place"
            raise fault(dataset, file, seen, f"sort the rows by task_index, 0 to {len(tasks) - 1}, without gaps")
    total = info.get("total_tasks", 0)
    if total != len(tasks) or not total:
        seen = f"total_tasks = {total}, but meta/tasks.parquet has {len(tasks)}"
        raise fault(dataset, root / "meta" / "info.json", seen, f"correct it to {len(tasks)}, or restore tasks.parquet")


def check_episodes_table(dataset: DatasetConfig, root: Path, info: dict[str, Any]) -> None:
    """Episodes count 0, 1, 2, ..., follow one another, and are as many, and as long, as info.json says.

    Raises:
        DatasetError: names the episode, the column and both values.
    """
    folder = root / "meta" / "episodes"
    files = sorted(folder.glob("*/*.parquet"))
    if not files:
        raise fault(dataset, folder, "has no parquet file (chunk-000/file-000.parquet)", RECORD_AGAIN)
    cameras = [key for key, feature in info["features"].items() if feature["dtype"] == "video"]
    places = [f"videos/{key}/{name}" for key in cameras for name in ("chunk_index", "file_index")]
    starts = [f"videos/{key}/from_timestamp" for key in cameras]
    columns: dict[str, list[Any]] = {name: [] for name in (*COUNTED, *places, *starts)}
    for file in files:
        require(dataset, file)
        try:
            there = pq.read_schema(file)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise fault(dataset, file, f"cannot be read ({first_line(error)})", to_restore(file)) from error
        if lacking := [name for name in columns if name not in there.names]:
            raise fault(dataset, file, f"has no column {lacking[0]!r}", CONVERT)
        table = read_table(dataset, file, list(columns))
        for name in columns:
            columns[name] += _cells(dataset, file, name, table[name].to_pylist(), whole=name not in starts)
    for what, remedy in _disagreements(columns, info):
        raise fault(dataset, folder, what, remedy)


def _cells(dataset: DatasetConfig, file: Path, name: str, values: list[Any], *, whole: bool) -> list[Any]:
    """A column's values: whole numbers, or seconds."""
    for row, value in enumerate(values):
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
        if not good or (whole and not isinstance(value, int)):
            wanted = "a whole number" if whole else "a time in seconds"
            raise fault(dataset, file, f"{name} is {shown(value)} in row {row}, not {wanted}", CONVERT)
    return values


def _disagreements(columns: dict[str, list[Any]], info: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What contradicts what, and what to do."""
    numbers, lengths, begins, ends = (columns[name] for name in COUNTED[:4])
    said = {key: info.get(key, 0) for key in ("total_episodes", "total_frames")}
    if len(numbers) != said["total_episodes"]:
        seen = f"has {len(numbers)} episodes, but info.json says total_episodes = {said['total_episodes']}"
        yield seen, f"restore what is missing, or correct total_episodes in info.json to {len(numbers)}"
    for place, number in enumerate(numbers):
        if number != place:
            seen = f"episode_index is {number} in row {place}, but LeRobot looks episodes up by their place (0, 1, ...)"
            yield seen, f"number the episodes 0 to {len(numbers) - 1}, here and in data/, or {CONVERT}"
    at = 0
    for episode, (length, begin, end) in enumerate(zip(lengths, begins, ends, strict=True)):
        if not length:
            yield f"episode {episode} has length 0", "remove it (`lerobot-edit-dataset`)"
        if (begin, end) != (at, at + length):
            seen = (
                f"episode {episode} of {length} frames is said to be frames {begin} to {end} (dataset_from_index, "
                f"dataset_to_index), but those before it end at {at}"
            )
            yield seen, CONVERT
        at += length
    if at != said["total_frames"]:
        seen = f"has episodes of {at} frames in all, but info.json says total_frames = {said['total_frames']}"
        yield seen, f"restore what is missing, or correct total_frames in info.json to {at}"
