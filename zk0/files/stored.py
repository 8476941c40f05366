"""Tensors that stay in their file until they are asked for."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from zk0.files import atomic


class StoredTensors(Mapping[str, NDArray[Any]]):
    """Name -> tensor of a safetensors file, read anew each time; StorageError where it cannot be.

    Args:
        path: the file.
        follow: see `atomic.read_json`.
    """

    def __init__(self, path: Path, *, follow: bool = False) -> None:
        self._path, self._follow = path, follow
        with atomic.opened_tensors(path, follow=follow) as file:
            self._entries = file.entries

    def rows(self, name: str, rows: slice | None) -> NDArray[Any]:
        """Some rows of a tensor; all of it where none are given."""
        return atomic.read_tensor(self._path, self._entries[name], rows, follow=self._follow)

    def __getitem__(self, name: str) -> NDArray[Any]:
        """All of a tensor."""
        return self.rows(name, None)

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self._entries)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._entries)
