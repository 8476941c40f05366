"""Decoded camera frames in a file: there whole or not at all, each with a checksum, and read one by one.

Nothing is mapped: a file that another process cuts short gives a short read, not the end of who reads it. What is not
what was written is no frame, and the file goes: frames are only ever kept to spare work.
"""

import hashlib
import math
import os
import time
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from loguru import logger

from zk0.files.locks import taken

ENDING = ".frames"
MAGIC_BYTES = 32
"""At the head of a file: SHA-256 of what its name and layout are made of."""
CHECKSUM_BYTES = 4
LOOKS, LOOK_S = 25, 0.02
"""Times that a process looks again whether the folder is free, and the pause before each, in seconds."""
UNUSED_S = 86_400.0
"""Frames that nobody has read for so long give way to others."""


class Layout(NamedTuple):
    """What a file of frames holds."""

    key: str
    """What its content depends on, as a digest in hex: its name."""
    frames: int
    """Frames of each camera."""
    cameras: dict[str, tuple[int, ...]]
    """Camera -> shape of one frame (channels, height, width), uint8."""

    @property
    def magic(self) -> bytes:
        """The first bytes of the file."""
        return hashlib.sha256(repr((self.key, self.frames, sorted(self.cameras.items()))).encode()).digest()

    @property
    def size(self) -> int:
        """Bytes of the file."""
        each = sum(CHECKSUM_BYTES + _bytes(shape) for shape in self.cameras.values())
        return MAGIC_BYTES + self.frames * each

    @property
    def checksums(self) -> int:
        """Where the table of checksums begins: uint32, shape (cameras, frames)."""
        return self.size - CHECKSUM_BYTES * self.frames * len(self.cameras)

    def place(self, camera: str, frame: int) -> tuple[int, int]:
        """First byte and length of a frame."""
        start = MAGIC_BYTES
        for name in sorted(self.cameras):
            if name == camera:
                break
            start += self.frames * _bytes(self.cameras[name])
        length = _bytes(self.cameras[camera])
        return start + frame * length, length


def _bytes(shape: Iterable[int]) -> int:
    return math.prod(shape)


class KeptFrames:
    """A file of frames, open for reading; it can be pickled, for a DataLoader's processes.

    Args:
        path: the file.
        layout: what it must hold.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds something else, or not all of it.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        self._path, self._layout = path, layout
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._file)
        status = os.fstat(self._file)
        if status.st_size != layout.size or os.pread(self._file, MAGIC_BYTES, 0) != layout.magic:
            raise ValueError(f"{path} does not hold these frames")
        table = os.pread(self._file, status.st_size - layout.checksums, layout.checksums)
        if len(table) != status.st_size - layout.checksums:
            raise ValueError(f"{path} ends too early")
        self._checksums = np.frombuffer(table, "<u4").reshape(len(layout.cameras), layout.frames)
        self._rows = {camera: row for row, camera in enumerate(sorted(layout.cameras))}
        with suppress(OSError):  # on a disk that may only be read
            os.utime(self._file)  # was used

    def __reduce__(self) -> tuple[type["KeptFrames"], tuple[Path, Layout]]:
        return type(self), (self._path, self._layout)

    def has(self, camera: str) -> bool:
        """Whether a camera's frames are in it."""
        return camera in self._rows

    def frame(self, camera: str, number: int) -> torch.Tensor | None:
        """One frame, of the layout's shape, uint8; None where it is not what was written."""
        start, length = self._layout.place(camera, number)
        room = bytearray(length)
        try:
            whole = os.preadv(self._file, [room], start) == length
        except OSError:
            whole = False
        if not whole or zlib.crc32(room) != self._checksums[self._rows[camera], number]:
            self._drop()
            return None
        return torch.frombuffer(room, dtype=torch.uint8).reshape(self._layout.cameras[camera])

    def _drop(self) -> None:
        with suppress(OSError):
            if self._path.stat().st_ino == os.fstat(self._file).st_ino:
                logger.warning("{} is damaged: its frames are decoded again", self._path)
                self._path.unlink()


def find(folder: Path, layout: Layout) -> KeptFrames | None:
    """The frames, where they are kept."""
    path = folder / f"{layout.key}{ENDING}"
    try:
        return KeptFrames(path, layout)
    except FileNotFoundError:
        return None
    except ValueError:
        with suppress(OSError):
            path.unlink()
        return None
    except OSError:
        return None


def keep(
    folder: Path, layout: Layout, most: Callable[[], int], frames: Iterable[tuple[str, int, torch.Tensor]]
) -> KeptFrames | None:
    """Write frames, and open them; None where there is no room for them, or another process is at it.

    Args:
        folder: where files of frames lie.
        layout: of the file.
        most: bytes that all files of the folder may have together.
        frames: camera, number and content of each, in any order.

    Raises:
        OSError: the disk has no room, or cannot be written.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _lock(folder) as mine:
        if not mine or not _room(folder, layout.size, most()):
            return None
        marker = _begun(folder, layout)
    if marker is None:
        return None
    path = folder / f"{layout.key}{ENDING}"
    try:
        with marker.open("r+b", buffering=0) as file:
            _fill(file.fileno(), layout, frames)
            marker.replace(path)
    finally:
        with suppress(OSError):
            marker.unlink()
    return find(folder, layout)


def _fill(file: int, layout: Layout, frames: Iterable[tuple[str, int, torch.Tensor]]) -> None:
    rows = {camera: row for row, camera in enumerate(sorted(layout.cameras))}
    checksums = np.zeros((len(rows), layout.frames), "<u4")
    for camera, number, frame in frames:
        start, _ = layout.place(camera, number)
        if frame.dtype != torch.uint8 or tuple(frame.shape) != layout.cameras[camera]:
            raise ValueError(
                f"{camera}: frame {number} is {frame.dtype} {tuple(frame.shape)}, no {layout.cameras[camera]}"
            )
        content = frame.contiguous().numpy().tobytes()
        checksums[rows[camera], number] = zlib.crc32(content)
        _write(file, content, start)
    _write(file, checksums.tobytes(), layout.checksums)
    _write(file, layout.magic, 0)


def _write(file: int, content: bytes, start: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(file, view, start)
        view, start = view[written:], start + written


def _begun(folder: Path, layout: Layout) -> Path | None:
    """The file that this process fills, of its full length; None where another one, which lives, is at the same."""
    _sweep(folder)
    if any(folder.glob(f".{layout.key}.*.tmp")):
        return None
    path = folder / f".{layout.key}.{os.getpid()}.tmp"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.truncate(layout.size)  # counted by the next one who looks for room
    return path


def _sweep(folder: Path) -> None:
    """Remove what processes that are gone had begun."""
    for path in folder.glob(".*.tmp"):
        pid = path.name.split(".")[2]
        with suppress(OSError):
            if not Path(f"/proc/{pid}").exists() or time.time() - path.stat().st_mtime > UNUSED_S:
                path.unlink()


def _room(folder: Path, wanted: int, most: int) -> bool:
    """Whether so many bytes more may be kept; what has not been used for long goes for them, the oldest first."""
    there = sorted(_files(folder), reverse=True)
    total = wanted + sum(size for _, size, _ in there)
    while total > most and there:
        at, size, path = there.pop()
        if time.time() - at < UNUSED_S:
            return False
        path.unlink(missing_ok=True)
        total -= size
    return total <= most


def _files(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Last use, bytes and path of every file of frames, begun ones included."""
    for path in [*folder.glob(f"*{ENDING}"), *folder.glob(".*.tmp")]:
        with suppress(OSError):
            status = path.stat()
            yield status.st_mtime, status.st_size, path


def used(folder: Path) -> int:
    """Bytes of all files of frames in a folder."""
    return sum(size for _, size, _ in _files(folder))


@contextmanager
def _lock(folder: Path) -> Iterator[bool]:
    """Hold the folder while its room is counted; False where another process does not let go of it."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield taken(descriptor, (0, *[LOOK_S] * LOOKS))
    finally:
        os.close(descriptor)
