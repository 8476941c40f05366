"""One container on each GPU at a time: a file lock for each, which a dead holder frees at once."""

import fcntl
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

POLL_S = 0.5


@contextmanager
def gpu_turn(gpus: Sequence[str], busy: Callable[[], set[str]]) -> Iterator[str | None]:
    """Wait for a free GPU and keep it; None at once where there are none to choose from.

    The lock alone would not do: a container that outlived its orchestrator uses the GPU and holds no lock.

    Args:
        gpus: those that may be used.
        busy: asks which of them have a container now.
    """
    if not gpus:
        yield None
        return
    while True:
        for gpu in gpus:
            with _locked(gpu) as mine:
                if mine and gpu not in busy():
                    yield gpu
                    return
        time.sleep(POLL_S)


def all_gpus() -> list[str]:
    """Indices of the machine's GPUs, as `nvidia-smi` lists them; the first where it is not installed."""
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]  # no path: where it lies differs
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return ["0"]
    return listed or ["0"]


@contextmanager
def _locked(gpu: str) -> Iterator[bool]:
    descriptor = _open(Path(tempfile.gettempdir()) / f"zk0-gpu-{gpu.replace('/', '_')}.lock")
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
