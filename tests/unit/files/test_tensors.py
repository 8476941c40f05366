"""Our reading of the safetensors format is the library's: what it takes we read alike, what it refuses we refuse."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.torch import save_file

from zk0.errors import DamageError
from zk0.files import atomic
from zk0.files.tensors import DTYPES

MUTATIONS = 3000


def written(path: Path) -> Path:
    rng = np.random.default_rng(3)
    tensors = {name: (rng.normal(size=(2, 3)) * 9).astype(name) for name in DTYPES}
    atomic.write_tensors(path, {**tensors, "none": np.empty((0, 4), np.float32), "one": np.full((), 2, np.float32)})
    return path


def test_every_dtype_and_shape_is_read_as_by_the_library(tmp_path: Path) -> None:
    path = written(tmp_path / "all.safetensors")
    ours, theirs = atomic.read_tensors(path), load_file(path)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert (ours[name].dtype, ours[name].shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(ours[name], value)
        assert ours[name].flags.writeable


def test_a_dtype_that_numpy_lacks_is_named_and_only_that_is_not_read(tmp_path: Path) -> None:
    save_file({"half": torch.ones(2, dtype=torch.bfloat16), "w": torch.ones(3)}, tmp_path / "odd.safetensors")
    with atomic.opened_tensors(tmp_path / "odd.safetensors") as file:
        assert {name: entry.dtype for name, entry in file.entries.items()} == {"half": "BF16", "w": "float32"}
        np.testing.assert_array_equal(file.read("w"), np.ones(3))
    with pytest.raises(DamageError, match=r"a tensor is of the dtype BF16"):
        atomic.read_tensors(tmp_path / "odd.safetensors")


def test_what_the_library_refuses_is_refused(tmp_path: Path) -> None:
    """Bytes changed, cut and added at random places, most of them in the header."""
    whole, path = written(tmp_path / "all.safetensors").read_bytes(), tmp_path / "mutated.safetensors"
    header, rng, taken = 8 + int.from_bytes(whole[:8], "little"), random.Random(1), 0
    for _ in range(MUTATIONS):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(header if rng.random() < 0.8 else len(data))
            data[place] = rng.choice([rng.randrange(256), ord(rng.choice('0123456789{}[]",:'))])
        if rng.random() < 0.1:
            data = data[: rng.randrange(len(data))]
        path.write_bytes(data)
        try:
            ours = atomic.read_tensors(path)
        except DamageError:
            continue
        taken += 1
        try:
            theirs = load_file(path)
        except SafetensorError as error:
            raise AssertionError(f"taken, and the library says {error}: {bytes(data[:header])!r}") from error
        assert {name: value.tobytes() for name, value in ours.items()} == {
            name: value.tobytes() for name, value in theirs.items()
        }
    assert taken > 50


@pytest.mark.parametrize(
    "header",
    [
        [], {"w": 1}, {"w": {}}, {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], "more": 1}},
        {"w": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}},
        {"w": {"dtype": "F32", "shape": [True, 2], "data_offsets": [0, 8]}},
        {"w": {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]}},
        {"w": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}},
        {"w": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}},
        {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"w": {"dtype": "F32", "shape": [2**62], "data_offsets": [0, 2**64]}},
        {"w": {"dtype": "F32", "shape": [0] * 70, "data_offsets": [0, 0]}},
    ],
)  # fmt: skip
def test_a_header_that_is_none_is_damage(tmp_path: Path, header: object) -> None:
    text = json.dumps(header).encode()
    path = tmp_path / "odd.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8 if "[0, 0]" not in str(header) else 0))
    with pytest.raises(DamageError, match="the file is damaged"):
        atomic.read_tensors(path)
