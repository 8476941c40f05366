"""What a keeper's programs leave behind when it is killed or ends: found wherever it has got to, and ended."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from zk0.files import untrusted

MARK = "ZK0_KEPT_FOR"
"""Environment variable of everything that a keeper started, directly or not: its folder."""
STATUS = "status.json"


def end_left_over(folder: Path) -> list[str]:
    """Kill everything that an earlier keeper of a folder started, wherever it has got to.

    Returns:
        What it was: process id and command, of each.
    """
    found: dict[int, str] = {}
    kept = _kept(folder)
    while new := [process for process in _left_over(folder, kept) if process.pid not in found]:
        for process in new:  # one that forked meanwhile has left a child that was not seen
            found[process.pid] = f"process {process.pid}"
            with contextlib.suppress(psutil.Error):
                found[process.pid] += f", {' '.join(process.cmdline())[:200]}"
                process.kill()
    return list(found.values())


def _left_over(folder: Path, kept: Mapping[int, float]) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            ours = process.environ().get(MARK) == str(folder) or kept.get(process.pid) == process.create_time()
            if ours and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def _kept(folder: Path) -> dict[int, float]:
    """Process id -> beginning of what an earlier keeper had at work when it last wrote of it."""
    status = folder / STATUS
    with contextlib.suppress(OSError, ValueError):
        parts = json.loads(untrusted.read(status))["parts"].values()
        return {int(part["pid"]): float(part["began"]) for part in parts if part["pid"] and part["began"]}
    return {}
