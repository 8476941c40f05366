"""Durable files: whole or not at all."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from zk0.errors import StorageError
from zk0.files import atomic


def test_bytes_and_json_come_back_with_their_digest(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "a.json"
    digest = atomic.write_json(path, {"b": 1, "a": [1.5, None]})
    assert digest == atomic.file_digest(path)
    assert atomic.read_json(path) == {"a": [1.5, None], "b": 1}
    assert atomic.write_json(path, {"a": [1.5, None], "b": 1}) == digest
    assert [entry.name for entry in path.parent.iterdir()] == ["a.json"]


def test_tensor_bytes_depend_on_nothing_but_the_tensors(tmp_path: Path) -> None:
    wide = np.arange(12, dtype=np.float64).reshape(3, 4)
    tensors: dict[str, NDArray[Any]] = {
        "w": wide.T,  # not contiguous
        "scalar": np.array(3, np.int16),
        "empty": np.zeros((0, 3), np.float32),
        "flag": np.array([True, False]),
        "half": np.ones(3, np.float16),
    }
    one = atomic.write_tensors(tmp_path / "one", tensors)
    two = atomic.write_tensors(tmp_path / "two", {name: tensors[name].copy() for name in reversed(tensors)})
    assert one == two == atomic.file_digest(tmp_path / "one")
    loaded = load_file(tmp_path / "one")
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (loaded[name].dtype, loaded[name].shape) == (tensor.dtype, tensor.shape)
        np.testing.assert_array_equal(loaded[name], tensor)
    assert atomic.read_tensors(tmp_path / "one").keys() == tensors.keys()
    atomic.write_tensors(tmp_path / "none", {})
    assert load_file(tmp_path / "none") == {}


def test_copy_equals_its_source(tmp_path: Path) -> None:
    data = os.urandom((1 << 20) + 7)
    atomic.write_bytes(tmp_path / "a", data)
    assert atomic.copy_file(tmp_path / "a", tmp_path / "b") == atomic.file_digest(tmp_path / "a")
    assert (tmp_path / "b").read_bytes() == data


def test_append_starts_a_new_line_after_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    atomic.append_line(path, "one")
    with path.open("a") as file:
        file.write("to")
    atomic.append_line(path, "three")
    atomic.append_line(path, "four")
    assert path.read_text() == "one\nto\nthree\nfour\n"


def test_full_disk_is_one_error_and_leaves_the_old_file_alone(make_disk: Callable[[str], Path]) -> None:
    tiny_disk = make_disk("64k")
    atomic.write_bytes(tiny_disk / "a", b"old")
    with pytest.raises(StorageError, match=r"/a: cannot be written: No space left.*free some space"):
        atomic.write_tensors(tiny_disk / "a", {"w": np.ones(1 << 16)})
    assert (tiny_disk / "a").read_bytes() == b"old"
    assert [path.name for path in tiny_disk.iterdir()] == ["a"]
    with pytest.raises(StorageError, match="No space left"):
        atomic.append_line(tiny_disk / "lines", "x" * (1 << 17))


def test_folder_that_cannot_be_made_or_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="Not a directory"):
        atomic.write_bytes(tmp_path / "file" / "a", b"x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="cannot be written: Is a directory"):
        atomic.write_bytes(tmp_path / "folder", b"x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_damage_and_absence_are_storage_errors(tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_bytes(b"\xff{")
    for read in (atomic.read_json, atomic.read_tensors):
        with pytest.raises(StorageError, match=r"/bad: cannot be read: .*damaged"):
            read(bad)
        with pytest.raises(StorageError, match=r"/absent: cannot be read"):
            read(tmp_path / "absent")
    with pytest.raises(StorageError, match="SHA-256"):
        atomic.verify(bad, "0" * 64)


def test_remove_folder_leaves_it_whole_or_out_of_sight(tmp_path: Path) -> None:
    (tmp_path / ".trash-7").mkdir()
    (tmp_path / ".trash-7" / "half").touch()
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "file").touch()
    atomic.remove_folder(tmp_path / "7")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_killed_writer_leaves_the_old_or_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    atomic.write_json(path, 0)
    killed = 0
    for step, name in enumerate(("fsync", "replace", "fsync"), start=1):
        child = os.fork()
        if child == 0:
            _die_at_call(name, 2 if step == 3 else 1)
            atomic.write_json(path, step)
            os._exit(0)
        killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        assert json.loads(path.read_text()) in (step - 1, step, 0)
    assert killed == 3
    atomic.sweep_temporaries(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def _die_at_call(name: str, number: int) -> None:
    """SIGKILL this process as it enters the n-th call of a function of `os`."""
    original, count = getattr(os, name), iter(range(1, 1000))

    def deadly(*args: object) -> object:
        if next(count) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args)

    setattr(os, name, deadly)
