"""One container on each GPU at a time, whoever starts it.

What all who might use a GPU share is the engine, and no folder: a service with a /tmp of its own, a worker in a
container, another user. So the engine's list of running containers says who has a GPU. It cannot be looked at and
added to at once, so whoever has started a container looks again, and takes it back if the GPU has another one: of two
that start at the same moment the one that looks last sees the other. Dead holders hold nothing but a GPU in use.

The file locks are for those who do share a folder, above all the clients of one run: they wait without starting
containers in vain.
"""

import fcntl
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

POLL_S = 0.5


@contextmanager
def gpu_turn(gpus: Sequence[str], busy: Callable[[], set[str]]) -> Iterator[str | None]:
    """Wait for a free GPU and keep it; None at once where there are none to choose from.

    Args:
        gpus: those that may be used.
        busy: asks which of them have a container now.
    """
    if not gpus:
        yield None
        return
    slot = slots()
    while True:
        for gpu in gpus:
            with _locked(slot(gpu)) as mine:
                if mine and not is_among(gpu, busy(), slot):
                    yield gpu
                    return
        time.sleep(POLL_S)


def is_among(gpu: str, others: Iterable[str], slot: Callable[[str], str]) -> bool:
    """Whether a GPU is one of some, by index or UUID."""
    return slot(gpu) in map(slot, others)


def slots() -> Callable[[str], str]:
    """A function that gives one name to a GPU's index and its UUID, as far as `nvidia-smi` knows them."""
    known = _listed()

    def slot(gpu: str) -> str:
        return next((uuid for index, uuid in known if gpu in (index, uuid)), gpu)

    return slot


def all_gpus() -> list[str]:
    """Indices of the machine's GPUs, as `nvidia-smi` lists them; the first where it is not installed."""
    return [index for index, _ in _listed()] or ["0"]


def _listed() -> list[tuple[str, str]]:
    """Index and UUID of the machine's GPUs; none where `nvidia-smi` is not installed."""
    command = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]  # no path: where it lies differs
    try:
        printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.split(",") for line in printed.splitlines() if line.strip()]
    return [(row[0].strip(), row[-1].strip()) for row in rows]


@contextmanager
def _locked(slot: str) -> Iterator[bool]:
    descriptor = _open(Path(tempfile.gettempdir()) / f"zk0-gpu-{slot.replace('/', '_')}.lock")
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    """Open, for a lock that every user of the machine may take: Linux refuses O_CREAT on another's file in /tmp."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
