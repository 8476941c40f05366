"""A real memory cgroup with a limit, of version 1 or 2, for tests that let the kernel kill."""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from zk0.memory import cgroup


@contextmanager
def limited_cgroup(limit: int) -> Iterator[Path]:
    """A folder whose `cgroup.procs` a process may write itself into; skips the test where none can be made."""
    found = cgroup.of_process()
    if found is None:
        pytest.skip("no memory cgroup here")
    folder = found.top / f"zk0-test-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    try:
        name = "memory.max" if found.version == 2 else "memory.limit_in_bytes"
        try:
            (folder / name).write_text(str(limit))
        except OSError as error:
            pytest.skip(f"no limit can be set here: {error}")
        yield folder
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    """Move what is still in it out (it would keep the folder), then remove it."""
    for pid in (folder / "cgroup.procs").read_text().split():
        (folder.parent / "cgroup.procs").write_text(pid)
    deadline = time.monotonic() + 10
    while True:
        try:
            folder.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
