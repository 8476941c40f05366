"""What a keeper's programs leave behind when it is killed or ends: found wherever it has got to, and ended."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from zk0.files import untrusted

MARK = "ZK0_KEPT_FOR"
"""Environment variable of everything that a keeper started, directly or not: its folder."""
SPARED = "ZK0_SPARED_BY"
"""The same of what a program started that spares its children: they outlive it, and a keeper that is killed, but not a
keeper that is ended."""
STATUS = "status.json"


def end_left_over(folder: Path, *marks: str) -> list[str]:
    """Kill everything that an earlier keeper of a folder started, wherever it has got to.

    Args:
        folder: the keeper's.
        marks: variables by which it is known; `MARK` alone when left out.

    Returns:
        What it was: process id and command, of each.
    """
    found: dict[int, str] = {}
    kept = _kept(folder)
    while new := [process for process in _left_over(folder, kept, marks or (MARK,)) if process.pid not in found]:
        for process in new:  # one that forked meanwhile has left a child that was not seen
            found[process.pid] = f"process {process.pid}"
            with contextlib.suppress(psutil.Error):
                found[process.pid] += f", {' '.join(process.cmdline())[:200]}"
                process.kill()
    return list(found.values())


def _left_over(folder: Path, kept: Mapping[int, float], marks: Sequence[str]) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            environment = process.environ()
            marked = any(environment.get(mark) == str(folder) for mark in marks)
            ours = marked or kept.get(process.pid) == process.create_time()
            if ours and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def _kept(folder: Path) -> dict[int, float]:
    """Process id -> beginning of what an earlier keeper had at work when it last wrote of it."""
    status = folder / STATUS
    with contextlib.suppress(OSError, ValueError):
        parts = json.loads(untrusted.read(status))["parts"].values()
        return {int(part["pid"]): float(part["began"]) for part in parts if part["pid"] and part["began"]}
    return {}
