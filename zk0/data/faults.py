"""How a fault in a dataset's files is said: dataset, file, key, value and remedy, in one line."""

import codecs
import json
from pathlib import Path
from typing import Any

from zk0.config import DatasetConfig
from zk0.errors import DatasetError, first_line

LFS = b"version https://git-lfs.github.com/spec/"
"""How the text begins that git leaves in place of a large file."""
LFS_REMEDY = "fetch the recordings themselves: `git lfs install && git lfs pull` in that folder, or `hf download`"
NO_BOM = "save it as UTF-8 without BOM"
MAC_LEFT = "._"
"""How a file's name begins that macOS leaves beside the file itself, on disks that are not its own."""
RECORD_AGAIN = "restore the file, or record or convert the dataset again"
LONGEST_VALUE = 80
"""Characters of a value that are shown."""


def fault(dataset: DatasetConfig, where: Path | str, what: str, remedy: str = RECORD_AGAIN) -> DatasetError:
    """An error that names all that a person needs."""
    return DatasetError(f"dataset {dataset.name!r}: {where}: {what}; {remedy}")


def unreadable(file: Path) -> tuple[str, str] | None:
    """Why a file cannot be read, and what to do; None where it is there and no stand-in for another."""
    try:
        if not file.exists():
            link = " (a link to what is not there)" if file.is_symlink() else ""
            return f"is missing or empty{link}", RECORD_AGAIN
        if not file.is_file():
            return "is no file", RECORD_AGAIN
        with file.open("rb") as content:
            first = content.read(len(LFS))
    except OSError as error:
        return f"cannot be read ({first_line(error)})", "see its permissions and its disk"
    if first == LFS:
        return "is a git-lfs pointer, not the recording itself", LFS_REMEDY
    return None if first else ("is missing or empty", RECORD_AGAIN)


def to_restore(file: Path) -> str:
    """What to do about a file that is there and cannot be read."""
    return "remove it: macOS left it beside the file itself" if file.name.startswith(MAC_LEFT) else RECORD_AGAIN


def require(dataset: DatasetConfig, file: Path) -> None:
    """Refuse a file that is missing, empty or a git-lfs pointer.

    Raises:
        DatasetError: names it.
    """
    if (found := unreadable(file)) is not None:
        raise fault(dataset, file, *found)


def read_json(dataset: DatasetConfig, file: Path) -> Any:
    """The content of a JSON file.

    Raises:
        DatasetError: names it.
    """
    require(dataset, file)
    try:
        with file.open("rb") as content:
            if content.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8:
                raise fault(dataset, file, "begins with a byte order mark, which LeRobot cannot read", NO_BOM)
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise fault(dataset, file, f"is damaged ({first_line(error)})") from error


def shown(value: Any) -> str:
    """A value in a message, no longer than a line bears."""
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."
