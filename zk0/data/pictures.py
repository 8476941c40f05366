"""Pictures that lie in the rows of data files, as LeRobot reads them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Image
from PIL.Image import DecompressionBombError
from PIL.Image import Image as Picture

from zk0.errors import first_line

AT_ONCE = 32
"""Pictures held in memory: 640 x 480 pixels are 0.9 MB each."""
PLACES = ("episode_index", "frame_index")
UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, SyntaxError, DecompressionBombError)
"""What PIL and `datasets` raise on a cell that is no picture."""


def pictures(file: Path, camera: str, at_once: int = AT_ONCE) -> Iterator[tuple[str, Picture | None, str]]:
    """Every picture of a camera in a data file.

    Yields:
        Where it stands; the picture, None where it cannot be decoded; and why.
    """
    try:
        for batch in pq.ParquetFile(file).iter_batches(at_once, columns=[camera, *PLACES]):
            for row in batch.to_pylist():
                where = f"{camera}, episode {row[PLACES[0]]}: frame {row[PLACES[1]]}"
                try:
                    yield where, _decoded(row[camera]), ""
                except UNREADABLE as error:
                    yield where, None, first_line(error)[:100]
    except (OSError, ValueError, pa.ArrowException) as error:
        yield f"{camera}: a picture", None, first_line(error)[:100]


def first_fault(file: Path, camera: str) -> list[str]:
    """Why the first picture of a data file cannot be decoded; none where it can."""
    for where, picture, why in pictures(file, camera, at_once=1):
        return [] if picture is not None else [f"{where} of {file} cannot be decoded ({why})"]
    return []


def _decoded(cell: Any) -> Picture:
    """A cell as `datasets` stores pictures: their file's bytes, the path to it, or both."""
    known = {"bytes": cell} if isinstance(cell, bytes) else {"path": cell} if isinstance(cell, str) else cell
    picture: Picture = Image().decode_example({"bytes": None, "path": None, **known})
    return picture
