"""Paths where someone else may have put anything: only plain files are opened there, and read up to a bound.

A client's container writes its folder of the round as it likes. A link there would lead the orchestrator elsewhere, a
FIFO or a device would stop it, and a file or a tree of any size would exhaust it.
"""

import errno
import os
import stat
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import IO
from uuid import uuid4

SMALL_BYTES = 4 * 2**20
"""No record or note that a worker leaves is larger."""
LONGEST_WORDS = 2000
"""Characters of a worker's own words that are passed on."""
_CAREFULLY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ODD = {errno.ELOOP, errno.ENXIO, errno.EISDIR}
"""What opening a link, a FIFO or socket, or a folder gives."""
_NOT_OURS = {errno.EACCES, errno.EPERM}


class OddFileError(OSError):
    """What has a file's name is none that is read: a link, a folder, a FIFO, or larger than it may be."""


def open_plain(path: Path, flags: int = os.O_RDONLY, *, follow: bool = False) -> int:
    """Open a plain file, following no link in the last component and waiting for nobody; gives the descriptor.

    Args:
        path: the file.
        flags: of `os.open`.
        follow: whether a link may lead to it.

    Raises:
        OddFileError: it is no plain file.
        OSError: it cannot be opened.
    """
    careful = _CAREFULLY & ~os.O_NOFOLLOW if follow else _CAREFULLY
    try:
        descriptor = os.open(path, flags | careful, 0o666)
    except OSError as error:
        if error.errno in _ODD and not stat.S_ISREG(os.lstat(path).st_mode):
            raise _no_plain_file(path) from error
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _no_plain_file(path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def reader(path: Path, most: int | None = None, *, follow: bool = False) -> IO[bytes]:
    """Open a plain file to read; raises as `open_plain`, and where it has more bytes than `most`."""
    file = os.fdopen(open_plain(path, follow=follow), "rb")
    try:
        if most is not None and os.fstat(file.fileno()).st_size > most:
            raise _too_large(path)
    except OSError:
        file.close()
        raise
    return file


def read(path: Path, most: int | None = SMALL_BYTES, *, follow: bool = False) -> bytes:
    """All bytes of a plain file.

    Args:
        path: the file.
        most: a larger file is refused; None for any size.
        follow: see `open_plain`.

    Raises:
        OSError: as `open_plain`, or it is larger.
    """
    with reader(path, follow=follow) as file:
        content = file.read() if most is None else file.read(most + 1)  # its size is not asked: it may grow meanwhile
    if most is not None and len(content) > most:
        raise _too_large(path)
    return content


def tail(path: Path, most: int) -> bytes:
    """The last bytes of a plain file, at most so many; raises as `open_plain`."""
    with reader(path) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - most))
        return file.read(most)


def words(said: object) -> str:
    """What someone else says, as one line: see `printable`."""
    return printable(" ".join(str(said)[: 2 * LONGEST_WORDS].split()))


def printable(line: str) -> str:
    """A line of bounded length that every file and terminal can take, and that steers none."""
    return "".join(letter if letter.isprintable() else "?" for letter in line[:LONGEST_WORDS].expandtabs())


def is_there(path: Path) -> bool:
    """Whether anything has this name, a link that leads nowhere included."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def status(path: Path) -> os.stat_result | None:
    """What is there, through links; None where nothing is.

    Raises:
        OSError: that cannot be told, or a link leads nowhere.
    """
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        if (link := leads_nowhere(path)) is None:
            return None
        raise OSError(errno.ENOLINK, f"{link} is a link that leads nowhere", str(path)) from None


def leads_nowhere(path: Path) -> Path | None:
    """The link that leads nowhere and makes a path be none; None where no link is the cause."""
    for place in (path, *path.parents):
        try:
            found = place.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        if not stat.S_ISLNK(found.st_mode):
            return None
        try:
            place.stat()
        except (FileNotFoundError, NotADirectoryError):
            return place
        return None
    return None


def open_ours(path: Path, flags: int) -> int:
    """As `open_plain`, for a file of our own to write: whatever else has its name is put aside first."""
    make_way(path)
    return open_plain(path, flags)


def make_way(path: Path) -> None:
    """Put aside what has the name of a file of our own and is none that we could write."""
    try:
        os.close(open_plain(path, os.O_RDWR))
    except FileNotFoundError:
        return
    except OSError as error:
        if not isinstance(error, OddFileError) and error.errno not in _NOT_OURS:
            raise
        put_aside(path)


def remove(path: Path) -> None:
    """Remove a file or a link, if it is there; a folder of that name is put aside."""
    try:
        path.unlink(missing_ok=True)
    except IsADirectoryError:
        put_aside(path)


def put_aside(path: Path) -> None:
    """Rename what must not have this name: that works for everything, and loses nothing."""
    path.rename(path.with_name(f".odd-{time.time_ns()}-{path.name}"))


def tidy(folder: Path, folders: Collection[str]) -> None:
    """Put aside what a worker could stumble over in its own folder: links, FIFOs, and folders under a file's name.

    Args:
        folder: the worker's.
        folders: names that are of folders.
    """
    for entry in list(os.scandir(folder)):
        is_folder = entry.is_dir(follow_symlinks=False) and (entry.name in folders or entry.name.startswith("."))
        if not (is_folder or entry.is_file(follow_symlinks=False) or entry.name.startswith(".odd-")):
            put_aside(Path(entry.path))


def empty(folder: Path, but: Collection[str]) -> None:
    """Remove the files of a folder, which must be none by a link; the names in `but` stay."""
    where = os.open(folder, _FOLDER)
    try:
        for name in {*_names(where)} - {*but}:
            os.unlink(name, dir_fd=where)
    finally:
        os.close(where)


def below(folder: Path, depth: int) -> Iterator[Path]:
    """What lies in a folder, and in those below it to a depth; links are named and not followed."""
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except PermissionError:
        return
    for entry in found:
        yield Path(entry.path)
        if depth > 1 and entry.is_dir(follow_symlinks=False):
            yield from below(Path(entry.path), depth - 1)


def remove_tree(folder: Path) -> None:
    """Remove a folder with all that is in it; of a link, the link.

    `shutil.rmtree` calls itself for each level, and a tree may be deeper than Python and than a path can be: here what
    lies two levels down is drawn up instead.
    """
    try:
        mode = folder.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        folder.unlink(missing_ok=True)
        return
    _admit(folder)
    top, unused = os.open(folder, _FOLDER), (f"{uuid4().hex}-{number}" for number in count())
    try:
        while names := _names(top):
            for name in names:
                if _is_folder(name, top):
                    _draw_up(name, top, unused)
                    os.rmdir(name, dir_fd=top)
                else:
                    os.unlink(name, dir_fd=top)
    finally:
        os.close(top)
    folder.rmdir()


def _draw_up(name: str, top: int, unused: Iterator[str]) -> None:
    """Empty a folder: files are removed, folders moved up beside it."""
    _admit(name, top)
    inside = os.open(name, _FOLDER, dir_fd=top)
    try:
        for inner in _names(inside):
            if _is_folder(inner, inside):
                _admit(inner, inside)  # a folder that moves is written, too
                os.rename(inner, next(unused), src_dir_fd=inside, dst_dir_fd=top)
            else:
                os.unlink(inner, dir_fd=inside)
    finally:
        os.close(inside)


def _names(where: int) -> list[str]:
    with os.scandir(where) as entries:
        return [entry.name for entry in entries]


def _is_folder(name: str, where: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=where, follow_symlinks=False).st_mode)


def _admit(folder: Path | str, where: int | None = None) -> None:
    """Give ourselves the rights that the owner of a folder can have; root has them anyway."""
    if os.geteuid():
        with suppress(OSError):  # another's: what follows says so
            os.chmod(folder, 0o700, dir_fd=where)


def _too_large(path: Path) -> OddFileError:
    return OddFileError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))


def _no_plain_file(path: Path) -> OddFileError:
    return OddFileError(errno.EINVAL, "is no plain file", str(path))
