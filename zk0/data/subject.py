"""A dataset under examination: its metadata, its rows, and how a finding about it is made."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.utils.constants import ACTION, OBS_STR
from numpy.typing import NDArray

from zk0.config import DatasetConfig, RunConfig
from zk0.data.columns import ColumnError, read_rows
from zk0.data.datasets import files_of, open_metadata
from zk0.data.faults import RECORD_AGAIN, to_restore, unreadable
from zk0.data.findings import DataFinding
from zk0.data.names import fitting_names
from zk0.data.videos import video_fault
from zk0.errors import first_line

NOT_NUMBERS = ("image", "video", "string", "language")
"""Types of features that are no vectors."""
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

    files: Mapping[Path, int] = field(default_factory=dict)
    """Rows of each data file, in their order."""

    def row(self, number: int) -> str:
        """Where a row is to be found, for a person."""
        first = 0
        for file, count in self.files.items():
            if number < first + count:
                return f"row {number - first} of {file}"
            first += count
        return f"row {number}"

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
        """A feature as (rows, dimensions); None where there is none, or it holds no numbers."""
        if feature not in self.rows.column_names or self.meta.features[feature]["dtype"] in NOT_NUMBERS:
            return None
        column = self.rows[feature]
        if isinstance(column.type, pa.ExtensionType):  # a matrix in each row
            return np.asarray(column.to_pylist(), dtype=np.float64).reshape(len(column), -1)
        if pa.types.is_fixed_size_list(column.type):
            return np.asarray(pc.list_flatten(column).to_numpy(), dtype=np.float64).reshape(len(column), -1)
        return np.asarray(column.to_numpy(), dtype=np.float64).reshape(-1, 1)

    def learned(self) -> list[str]:
        """The vector features that a policy may see or give, as LeRobot tells them by their names."""
        known = [
            key for key in self.meta.features if key.startswith((OBS_STR, ACTION)) or key in self.dataset.rename_map
        ]
        return [key for key in known if self.vectors(key) is not None]

    def same_episode(self) -> Doubles:
        """Shape (rows - 1,): whether a row and the one after it are of one episode."""
        return np.asarray(np.diff(self.column("episode_index")) == 0)


Check = Callable[[Subject], DataFinding]


def open_subject(
    config: RunConfig, dataset: DatasetConfig, first: LeRobotDatasetMetadata | None = None
) -> tuple[Subject, DataFinding]:
    """Read a dataset's metadata and rows; every file that the episodes name is there and can be read.

    Raises:
        DatasetError: there is no such dataset, or its metadata cannot be read or contradict one another.
    """
    meta = open_metadata(dataset)
    subject = Subject(dataset, meta, config, _joints(first) if first else None)
    folder = Path(meta.root)
    if dataset.root is None and not (folder / "data").is_dir():
        why = "the recordings are not fetched from the hub yet: only the metadata was checked"
        return subject, subject.warning("files", why, "`zk0 check-data CONFIG` fetches and checks them")
    names = [folder / name for name in files_of(meta)]
    lacking = [(file, found) for file in names if (found := unreadable(file)) is not None]
    for file, (why, remedy) in lacking[:1]:
        return subject, subject.error("files", first_of([f"{file} {why}", *lacking[1:]]), remedy)
    for file in names:
        if (fault := video_fault(file)) is not None:
            return subject, subject.error("files", fault, RECORD_AGAIN)
    return _with_rows(subject, names)


def _with_rows(subject: Subject, named: list[Path]) -> tuple[Subject, DataFinding]:
    """The subject with its rows, from all files that LeRobot reads: those of the folders in data/, named or not."""
    rows: dict[Path, pa.Table] = {}
    for file in sorted((Path(subject.meta.root) / "data").glob("*/*.parquet")):
        try:
            rows[file] = read_rows(file, subject.meta)
        except ColumnError as error:
            return subject, subject.error(error.check, error.seen, error.remedy)
        except (OSError, ValueError, pa.ArrowException) as error:
            seen = f"a data file cannot be read: {file} ({first_line(error)})"
            return subject, subject.error("files", seen, to_restore(file))
    for file, table in rows.items():
        if file not in named and len(table):
            seen = f"{file} has {len(table)} rows, but no episode names it: LeRobot reads it all the same"
            return subject, subject.error("files", seen, "move it out of data/, or restore meta/episodes")
    sizes = {file: len(table) for file, table in rows.items()}
    whole = replace(subject, rows=pa.concat_tables(rows.values()), files=sizes)
    if (misplaced := _misplaced(whole, rows)) is not None:
        return subject, subject.error("files", misplaced, "restore meta/episodes, or convert the dataset again")
    return whole, subject.ok("files", f"{len(named)} files")


def _misplaced(subject: Subject, rows: dict[Path, pa.Table]) -> str | None:
    """Where an episode's rows are not in the file that the metadata name for it."""
    meta = subject.meta.episodes
    chunks, numbers = list(meta["data/chunk_index"]), list(meta["data/file_index"])
    for file, table in rows.items():
        for episode in pc.unique(table["episode_index"]).to_pylist():
            if 0 <= episode < len(chunks):
                name = subject.meta.data_path.format(chunk_index=chunks[episode], file_index=numbers[episode])
                if (named := Path(subject.meta.root) / name) != file:
                    return f"meta/episodes puts episode {episode} into {named}, but its rows are in {file}"
    return None


def _joints(meta: LeRobotDatasetMetadata) -> list[str] | None:
    """The names of a dataset's action."""
    return fitting_names(meta.features[ACTION]) if ACTION in meta.features else None


def first_of(faults: Sequence[object], text: str = "{}") -> str:
    """The first of many faults, and how many more there are."""
    return text.format(faults[0]) + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else "")
