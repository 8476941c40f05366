"""What happens in a folder and below, as the Linux kernel tells it: by inotify, through ctypes."""

import ctypes
import os
import select
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MODIFY, MOVED_TO, CREATE, OPEN = 0x2, 0x80, 0x100, 0x20
_CLOSE, _DIRECTORY, _OVERFLOW = 0x18, 0x40000000, 0x4000
_HEADER = struct.Struct("iIII")  # watch, mask, cookie, length of the name
_C = ctypes.CDLL(None, use_errno=True)


class Event(NamedTuple):
    """One thing that happened."""

    path: str
    """Relative to the watched folder."""
    what: int
    """MODIFY, MOVED_TO, CREATE or OPEN."""


class Tree:
    """Watches `root/top` and everything below; `top` need not exist yet."""

    def __init__(self, root: Path, top: str) -> None:
        self._root, self._top = root, top
        self._folders: dict[int, str] = {}
        self._descriptor = _checked(_C.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
        self._found = [*self._watch(""), *self._below(top)]

    def close(self) -> None:
        os.close(self._descriptor)

    def read(self, timeout_s: float) -> list[Event]:
        """What happened since the last call; waits so long for the first event."""
        found, self._found = self._found, []
        ready, _, _ = select.select([self._descriptor], [], [], 0 if found else timeout_s)
        if not ready:
            return found
        data = os.read(self._descriptor, 1 << 20)
        while data:
            watch, mask, _, length = _HEADER.unpack_from(data)
            name = data[_HEADER.size : _HEADER.size + length].rstrip(b"\0").decode()
            data = data[_HEADER.size + length :]
            found.extend(self._event(watch, mask, name))
        return found

    def _event(self, watch: int, mask: int, name: str) -> Iterator[Event]:
        if mask & _OVERFLOW:
            raise OSError("inotify: the kernel's queue ran over, events are lost")
        folder = self._folders.get(watch)
        what = mask & (MODIFY | MOVED_TO | CREATE | OPEN)
        if folder is None or not what or not name:
            return
        path = f"{folder}/{name}" if folder else name
        if path.split("/")[0] != self._top:
            return
        yield Event(path.removeprefix(f"{self._top}/"), what)
        if mask & _DIRECTORY and what & (CREATE | MOVED_TO):
            yield from self._below(path)

    def _below(self, folder: str) -> Iterator[Event]:
        """Watch a folder; what is in it already may have come before the watch did, and counts as created."""
        if not (self._root / folder).is_dir():
            return
        yield from self._watch(folder)
        for entry in list((self._root / folder).iterdir()):
            path = f"{folder}/{entry.name}"
            yield Event(path.removeprefix(f"{self._top}/"), CREATE)
            yield from self._below(path)

    def _watch(self, folder: str) -> list[Event]:
        path = os.fsencode(self._root / folder)
        # Closings are asked for to keep openings apart: the kernel makes equal events in succession one.
        number = _C.inotify_add_watch(self._descriptor, path, MODIFY | MOVED_TO | CREATE | OPEN | _CLOSE)
        if number >= 0:  # a folder that is gone again needs none
            self._folders[number] = folder
        return []


def _checked(number: int) -> int:
    if number < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return number
