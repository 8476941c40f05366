"""Where decoded frames may be kept, and how many: on the disk, for all runs; in memory, for this one."""

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psutil

from zk0.config import DataConfig, size_in_bytes
from zk0.data import kept
from zk0.files import cache
from zk0.memory.cgroup import of_process
from zk0.work.lock import CONTAINER_MARK

KIND = "frames"
SHARE_OF_DISK = 0.1
SHARE_OF_MEMORY = 0.25


class Place(NamedTuple):
    """A folder for frames."""

    folder: Path
    shared: bool
    """Whether other pieces of work see it: of this run, and on the disk of others."""
    most: Callable[[], int]
    """Bytes that all frames in it may take together."""


def places(data: DataConfig) -> list[Place]:
    """Where to look for frames, and then to keep them, in this order.

    In a container nothing is shared: what is kept there goes with it, and no client sees another's.
    """
    alone = CONTAINER_MARK in os.environ
    found = []
    if (root := cache.folder()) is not None and data.cache in ("disk", "auto") and not (alone and data.cache == "auto"):
        found.append(Place(root / KIND, not alone, partial(_most, data, _disk, root / KIND)))
    if (memory := cache.in_memory()) is not None and data.cache in ("ram", "auto"):
        found.append(Place(memory / KIND, not alone, partial(_most, data, _memory, memory / KIND)))
    return found


def _most(data: DataConfig, share: Callable[[Path], float], folder: Path) -> int:
    return int(share(folder)) if data.cache_limit is None else size_in_bytes(data.cache_limit)


def _disk(folder: Path) -> float:
    return SHARE_OF_DISK * (shutil.disk_usage(folder).free + kept.used(folder))


def _memory(folder: Path) -> float:
    free = min(psutil.virtual_memory().available, shutil.disk_usage(folder).free)
    group = of_process()
    if group is not None and (usage := group.usage()) is not None:
        free = min(free, usage[1] - usage[0])
    return float(SHARE_OF_MEMORY * (max(0, free) + kept.used(folder)))
