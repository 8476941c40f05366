"""What the files of a dataset hold: a digest of each, taken again only where the file system says that it changed."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from zk0.files import cache

PARTS = ("meta", "data", "videos", "images")
"""Folders of a dataset that hold metadata, rows and pictures."""
KIND = "digests"
UNREADABLE = "unreadable"
"""In place of a digest."""
SETTLED_NS = 2 * 10**9
"""Nanoseconds: a file that changed less than this before it was read may change again in the same tick of its clock."""
Say = Callable[[str], None]


def file_digests(root: Path, say: Say = lambda _: None, parts: Sequence[str] = PARTS) -> dict[str, str]:
    """Path within the dataset -> SHA-256 of what the file there holds, in order.

    Args:
        root: the dataset's folder.
        say: told of every file that is read.
        parts: the folders in it that count.
    """
    key = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()
    known = cache.read(KIND, key)
    found, kept = {}, {}
    for name, path in sorted(_files(root, parts)):
        now = time.time_ns()
        try:
            status = path.stat()
            mark = f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"
            before = known.get(name)
            if isinstance(before, list) and before[:1] == [mark]:
                digest = str(before[1])
            else:
                say(f"reading {name}")
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:  # the checks say whether it is needed
            found[name] = UNREADABLE
            continue
        found[name] = digest
        if now - max(status.st_mtime_ns, status.st_ctime_ns) > SETTLED_NS:
            kept[name] = [mark, digest]
    if kept != known:
        cache.write(KIND, key, kept)
    return found


def _files(root: Path, parts: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Every file of the dataset's parts, links followed, by its path within the dataset."""
    seen: set[str] = set()
    for part in parts:
        for folder, folders, names in os.walk(root / part, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen:  # a link that leads back
                folders.clear()
                continue
            seen.add(real)
            for name in names:
                path = Path(folder) / name
                if not name.startswith(".") and _is_plain(path):
                    yield path.relative_to(root).as_posix(), path


def _is_plain(path: Path) -> bool:
    """Whether a file is there; a link to nothing is of no recording, or the checks name what lacks."""
    try:
        return path.is_file()
    except OSError:
        return False
