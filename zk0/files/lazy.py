"""Tensors that stay in their file until they are asked for."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import safe_open

from zk0.files import atomic, untrusted


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file whose tensors are read one by one; StorageError where it cannot be."""
    with (
        atomic.storage_errors(path, "read"),
        untrusted.opened(path) as name,
        safe_open(name, framework="numpy") as file,
    ):
        yield file


def read_tensor(path: Path, name: str, rows: slice | None = None) -> NDArray[Any]:
    """One tensor of a safetensors file, or some rows of it; StorageError where it cannot be read, or is not there."""
    with opened(path) as file:
        tensor: NDArray[Any] = file.get_tensor(name) if rows is None else file.get_slice(name)[rows.start : rows.stop]
    return tensor


class TensorFile(Mapping[str, NDArray[Any]]):
    """Name -> tensor of a safetensors file, read anew each time; StorageError where it cannot be."""

    def __init__(self, path: Path) -> None:
        """Read the names."""
        self.path = path
        with opened(path) as file:
            self._names = tuple(file.keys())

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Read a tensor."""
        return self.rows(name, None)

    def rows(self, name: str, rows: slice | None) -> NDArray[Any]:
        """Read some rows of a tensor; all of it where there are none given."""
        if name not in self._names:
            raise KeyError(name)
        return read_tensor(self.path, name, rows)

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self._names)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._names)
