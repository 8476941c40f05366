"""The rows of data/ as LeRobot reads them: every file cast to the types and shapes of info.json's features."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Features
from datasets.exceptions import DatasetsError
from datasets.table import table_cast
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.feature_utils import get_hf_features_from_features
from lerobot.datasets.language import is_language_column

from zk0.errors import first_line

INDEX_COLUMNS = ("index", "episode_index", "frame_index", "timestamp", "task_index")
SHAPE = "correct the feature's dtype, shape and names in meta/info.json, or convert the dataset again"
FILL = "remove those episodes (`lerobot-edit-dataset`), or record them again"


class ColumnError(Exception):
    """Rows that are not what info.json says of them.

    Args:
        check: the name of the check that they fail.
        seen: file, column, and what is wrong.
        remedy: what to do.
    """

    def __init__(self, check: str, seen: str, remedy: str) -> None:
        super().__init__(seen)
        self.check, self.seen, self.remedy = check, seen, remedy


def read_rows(file: Path, meta: LeRobotDatasetMetadata) -> pa.Table:
    """All rows of a data file, without the columns that hold pictures.

    Raises:
        ColumnError: what LeRobot would stumble over, or read as something else.
        OSError, pa.ArrowException: the file cannot be read.
    """
    features = {key: feature for key, feature in meta.features.items() if key not in meta.video_keys}
    there = pq.read_schema(file).names
    for name in (*INDEX_COLUMNS, *features):
        if name not in there:
            raise ColumnError("files", f"{file} has no column {name!r}", "restore the file, or convert it again")
    if odd := [name for name in there if name not in features]:
        seen = f"{file} has a column {odd[0]!r}, which is no feature of info.json: LeRobot reads neither then"
        raise ColumnError("dimensions", seen, f"add features.{odd[0]} to meta/info.json, or drop the column")
    if lacking := [name for name in INDEX_COLUMNS if name not in features]:
        seen = f"meta/info.json has no features.{lacking[0]}, which is a column of {file}"
        raise ColumnError("dimensions", seen, "restore meta/info.json, or convert the dataset again")
    names = [name for name in features if name not in meta.image_keys]
    rows = pq.read_table(file, columns=names)
    wanted = get_hf_features_from_features({name: features[name] for name in names})
    columns = [_cast(file, rows.select([name]), wanted, features[name]["shape"]) for name in names]
    for name, column in zip(names, columns, strict=True):
        if not is_language_column(name) and (row := _first_null(column)) is not None:
            raise ColumnError("values", f"{file}: {name!r} is empty (null) in row {row}", FILL)
    return pa.table(dict(zip(names, columns, strict=True)))


def _cast(file: Path, column: pa.Table, wanted: Features, shape: tuple[int, ...]) -> pa.ChunkedArray:
    """A column as LeRobot casts it."""
    name = column.column_names[0]
    lengths = _lengths(column[name])
    if len(shape) == 1 and lengths not in ([], [shape[0]]) and not (lengths is None and shape == (1,)):
        if lengths is None:
            seen = f"{name!r} has a single value in a row, info.json says {shape[0]} (shape)"
        elif len(lengths) > 1:
            seen = f"the rows of {name!r} differ in length ({lengths[0]} and {lengths[1]} numbers)"
        else:
            seen = f"{name!r} has {lengths[0]} numbers in a row, info.json says {shape[0]}"
        raise ColumnError("dimensions", f"{seen} ({file})", SHAPE)
    try:
        return table_cast(column, Features({name: wanted[name]}).arrow_schema)[name]
    except (ValueError, TypeError, pa.ArrowException, DatasetsError) as error:
        seen = f"{name!r} is {column.schema.field(name).type} in {file}, which is no {wanted[name]} ({_brief(error)})"
        raise ColumnError("dimensions", seen, SHAPE) from error


def _lengths(column: pa.ChunkedArray) -> list[int] | None:
    """The different numbers of values in the rows, nulls left out; None where a row is one value."""
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind)):
        return None
    return [length for length in pc.unique(pc.list_value_length(column)).to_pylist() if length is not None]


def _first_null(column: pa.ChunkedArray) -> int | None:
    """The first row without a value, or with a number missing among several."""
    if isinstance(column.type, pa.ExtensionType):
        return None
    if column.null_count:
        return int(pc.index(pc.is_null(column), True).as_py())
    if _lengths(column) is None:
        return None
    inner = pc.list_flatten(column)
    if not inner.null_count:
        return None
    owner = pc.list_parent_indices(column)
    return int(owner[pc.index(pc.is_null(inner), True).as_py()].as_py())


def _brief(error: Exception) -> str:
    return first_line(error)[:200]
