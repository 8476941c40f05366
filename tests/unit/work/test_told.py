"""What an error came of: a disk below a folder, or anything else."""

import errno
import os
from pathlib import Path

import pytest

from zk0.work.told import fault_below


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    def fail() -> None:
        raise error from cause

    with pytest.raises(type(error)) as caught:
        fail()
    return caught.value


def test_a_fault_of_the_run_directory_is_told_from_all_others(tmp_path: Path) -> None:
    def fault(number: int, path: Path) -> OSError:
        return OSError(number, os.strerror(number), str(path))

    below = fault(errno.EMFILE, tmp_path / "base" / "config.json")
    assert fault_below(below, tmp_path) is below
    assert fault_below(raised(RuntimeError("a library"), below), tmp_path) is below
    assert fault_below(ExceptionGroup("two", [ValueError("x"), below]), tmp_path) is below
    for other in (
        fault(errno.ENOENT, tmp_path / "base"),
        fault(errno.EIO, Path("/data/kitchen")),
        OSError(errno.EIO, "without a name"),
        ValueError(str(tmp_path)),
    ):
        assert fault_below(raised(other), tmp_path) is None
