"""The safetensors format, written and read by plain writes and reads.

A library that maps the file ends its process by SIGBUS where a disk fails under it or a client cuts the file short, and
what a disk answers becomes its own words; here that is an OSError, and a file that is none of the format a ValueError.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Tensors = Mapping[str, NDArray[Any]]
"""Name -> array, of any shape and of a plain bool, integer or float dtype."""
DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bool": "BOOL",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8",
}  # fmt: skip
_NAMES = {code: name for name, code in DTYPES.items()}
_NUMPY = {code: np.dtype(name).newbyteorder("<") for name, code in DTYPES.items()}
_SIZES = {code: dtype.itemsize for code, dtype in _NUMPY.items()} | {"BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
"""Code -> bytes of an element; those beyond numpy's are known to be there, and not read."""
_LENGTH_BYTES = 8
_MOST_HEADER_BYTES = 100_000_000
"""As in the library."""
_METADATA = "__metadata__"


class Entry(NamedTuple):
    """Where a tensor lies."""

    dtype: str
    """Name of its dtype; as the file has it where numpy has none."""
    code: str
    """The file's name of it."""
    shape: tuple[int, ...]
    """Its shape."""
    start: int
    """Of its first byte in the file."""
    end: int
    """Behind its last byte."""


class TensorFile:
    """An open file whose tensors are read one by one.

    Args:
        file: seekable; it stays the caller's.

    Raises:
        OSError: it cannot be read.
        ValueError: it is none of this format, or not whole.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.entries: dict[str, Entry] = _entries(file, os.fstat(file.fileno()).st_size)

    def read(self, name: str) -> NDArray[Any]:
        """One tensor; raises as `read_entry`."""
        return read_entry(self._file, self.entries[name])


def read_entry(file: IO[bytes], entry: Entry, rows: slice | None = None) -> NDArray[Any]:
    """One tensor of a file whose header is known, or some rows of it along its first axis.

    Raises:
        OSError: it cannot be read.
        ValueError: the file ends before it, or numpy has no such dtype.
    """
    if entry.code not in _NUMPY:
        raise ValueError(f"a tensor is of the dtype {entry.code}, which cannot be read here")
    shape, start = entry.shape, entry.start
    if rows is not None:
        shape = (rows.stop - rows.start, *shape[1:])
        start += rows.start * math.prod(shape[1:]) * _SIZES[entry.code]
    tensor = np.empty(shape, _NUMPY[entry.code])
    file.seek(start)
    _fill(file, memoryview(tensor.reshape(-1).view(np.uint8)))
    return tensor


def _entries(file: IO[bytes], size: int) -> dict[str, Entry]:
    length = int.from_bytes(_exactly(file, _LENGTH_BYTES), "little")
    if length > min(_MOST_HEADER_BYTES, size - _LENGTH_BYTES):
        raise ValueError(f"its header is said to have {length} bytes")
    header = json.loads(_exactly(file, length).decode())
    if not isinstance(header, dict):
        raise ValueError("its header is no object")  # noqa: TRY004 - of a file's content
    begin, told = _LENGTH_BYTES + length, {name: item for name, item in header.items() if name != _METADATA}
    entries = {name: _entry(name, item, begin) for name, item in told.items()}
    place = begin
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != place:
            raise ValueError(f"tensor {name!r} lies elsewhere than behind the one before it")
        place = entry.end
    if place != size:
        raise ValueError(f"its tensors end at byte {place}, and it has {size}")
    return entries


def _entry(name: str, item: object, begin: int) -> Entry:
    if not isinstance(item, dict) or item.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name!r} has not just dtype, shape and data_offsets")
    code, shape, offsets = item["dtype"], item["shape"], item["data_offsets"]
    if not isinstance(code, str) or code not in _SIZES:
        raise ValueError(f"tensor {name!r} has an unknown dtype")
    if not (_counts(shape) and _counts(offsets) and len(offsets) == 2):
        raise ValueError(f"the shape or the place of tensor {name!r} is none")
    start, end = offsets
    if end - start != math.prod(shape) * _SIZES[code]:
        raise ValueError(f"tensor {name!r} has not the size of its shape")
    return Entry(_NAMES.get(code, code), code, tuple(shape), begin + start, begin + end)


def _counts(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _exactly(file: IO[bytes], count: int) -> bytes:
    if len(data := file.read(count)) != count:
        raise ValueError("it ends too early")
    return data


def _fill(file: Any, room: memoryview) -> None:
    while room:
        if not (got := file.readinto(room)):
            raise ValueError("it ends too early")
        room = room[got:]


def serialised(tensors: Tensors) -> Iterator[bytes | memoryview]:
    """The bytes of a file, a pure function of names and values: header, then the tensors, widest dtype first to align.

    Raises:
        KeyError: a dtype that the format does not know.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    header: dict[str, Any] = {}
    offset = 0
    for name in names:
        tensor = tensors[name]
        end = offset + tensor.nbytes
        header[name] = {"dtype": DTYPES[tensor.dtype.name], "shape": tensor.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        little_endian = tensors[name].dtype.newbyteorder("<")
        yield memoryview(np.asarray(tensors[name], little_endian, order="C").reshape(-1).view(np.uint8))
