"""A dataset under examination: its metadata, its rows, and how a finding about it is made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.utils.constants import ACTION
from numpy.typing import NDArray

from zk0.config import DatasetConfig, RunConfig
from zk0.data.datasets import open_metadata
from zk0.data.findings import DataFinding

RECORD_AGAIN = "restore the file, or record or convert the dataset again"
INDEX_COLUMNS = ("index", "episode_index", "frame_index", "timestamp", "task_index")
Doubles = NDArray[np.bool_]
"""One truth value per row."""


@dataclass(frozen=True)
class Subject:
    """A dataset under examination."""

    dataset: DatasetConfig
    meta: LeRobotDatasetMetadata
    config: RunConfig
    first_names: list[str] | None = None
    """The joints of the first client's action, in its order."""
    rows: pa.Table = field(default_factory=lambda: pa.table({}))
    """All rows of `data/`, without the columns that hold images; empty where they cannot be read or are not fetched."""

    def ok(self, check: str, seen: str) -> DataFinding:
        """All is well."""
        return DataFinding(dataset=self.dataset.name, check=check, verdict="ok", seen=seen)

    def warning(self, check: str, seen: str, remedy: str) -> DataFinding:
        """A person should look at it."""
        return DataFinding(dataset=self.dataset.name, check=check, verdict="warning", seen=seen, remedy=remedy)

    def error(self, check: str, seen: str, remedy: str) -> DataFinding:
        """Training would fail or be wrong."""
        return DataFinding(dataset=self.dataset.name, check=check, verdict="error", seen=seen, remedy=remedy)

    def column(self, name: str) -> NDArray[np.float64]:
        """An index column, shape (rows,); whole numbers are exact below 2**53."""
        return np.asarray(self.rows[name].to_numpy(), dtype=np.float64).reshape(-1)

    def vectors(self, feature: str) -> NDArray[np.float64] | None:
        """A feature as (rows, dimensions); None where there is none, or its rows differ in length."""
        if feature not in self.rows.column_names or feature not in self.meta.features:
            return None
        column = self.rows[feature]
        if not pa.types.is_list(column.type) and not pa.types.is_fixed_size_list(column.type):
            return np.asarray(column.to_numpy(), dtype=np.float64).reshape(-1, 1)
        lengths = pc.unique(pc.list_value_length(column)).to_pylist()
        if len(lengths) != 1 or not lengths[0]:
            return None
        return np.asarray(pc.list_flatten(column).to_numpy(), dtype=np.float64).reshape(-1, lengths[0])

    def same_episode(self) -> Doubles:
        """Shape (rows - 1,): whether a row and the one after it are of one episode."""
        return np.asarray(np.diff(self.column("episode_index")) == 0)


Check = Callable[[Subject], DataFinding]


def joint_names(meta: LeRobotDatasetMetadata, feature: str) -> list[str] | None:
    """The names of a feature's dimensions, in order; None where the dataset gives none."""
    names = meta.features.get(feature, {}).get("names")
    if isinstance(names, dict):  # older recordings: {"motors": [...]}
        names = [name for group in names.values() for name in (group if isinstance(group, list) else [group])]
    return [str(name) for name in names] if names else None


def open_subject(
    config: RunConfig, dataset: DatasetConfig, first: LeRobotDatasetMetadata | None = None
) -> tuple[Subject, DataFinding]:
    """Read a dataset's metadata and rows; every file that the episodes name is there and can be read.

    Raises:
        DatasetError: there is no such dataset, or its metadata cannot be read.
    """
    meta = open_metadata(dataset)
    subject = Subject(dataset, meta, config, joint_names(first, ACTION) if first else None)
    folder = Path(meta.root)
    if dataset.root is None and not (folder / "data").is_dir():
        why = "the recordings are not fetched from the hub yet: only the metadata was checked"
        return subject, subject.warning("files", why, "`zk0 check-data CONFIG` fetches and checks them")
    names = {meta.get_data_file_path(index) for index in range(meta.total_episodes)}
    names |= {meta.get_video_file_path(i, key) for i in range(meta.total_episodes) for key in meta.video_keys}
    lacking = [folder / name for name in sorted(names) if not _is_whole(folder / name)]
    if lacking:
        seen = first_of(lacking, "{} is missing or empty")
        return subject, subject.error("files", seen, RECORD_AGAIN)
    try:
        rows = pa.concat_tables([_read(file, meta) for file in sorted((folder / "data").rglob("*.parquet"))])
    except (OSError, KeyError, pa.ArrowException) as error:
        seen = f"a data file cannot be read ({(str(error).splitlines() or [''])[0]})"
        return subject, subject.error("files", seen, RECORD_AGAIN)
    return replace(subject, rows=rows), subject.ok("files", f"{len(names)} files")


def first_of(faults: Sequence[object], text: str = "{}") -> str:
    """The first of many faults, and how many more there are."""
    return text.format(faults[0]) + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else "")


def _is_whole(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0


def _read(file: Path, meta: LeRobotDatasetMetadata) -> pa.Table:
    there = pq.read_schema(file).names
    if lacking := [name for name in INDEX_COLUMNS if name not in there]:
        raise KeyError(f"{file} has no column {lacking[0]!r}")
    return pq.read_table(file, columns=[name for name in there if name not in meta.image_keys])
