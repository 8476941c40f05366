"""Durable files: written whole or not at all, read back or refused, every fault as one StorageError.

Only plain files are read and appended to, never through a link: see `untrusted`.
"""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from zk0.errors import StorageError
from zk0.files import untrusted

Tensors = Mapping[str, NDArray[Any]]
"""Name -> array, of any shape and of a plain bool, integer or float dtype."""
CHECKSUM = "checksum"
"""Key of a sealed record: SHA-256 of all its other keys as JSON."""
DEEPEST = 5
"""Levels below a round's folder in which we look for what we wrote: `clients/<client>/checkpoint/` lies deepest."""
_CHUNK_BYTES = 1 << 20
_REMEDIES = {
    errno.ENOSPC: "free some space on that disk, then resume the run",
    errno.EDQUOT: "free some of your disk quota, then resume the run",
    errno.EACCES: "give your user permission there, then resume the run",
    errno.EPERM: "give your user permission there, then resume the run",
    errno.ENOLCK: "choose a folder on a file system that keeps locks, or mount this one with locks",
    errno.EROFS: "make that file system writable or choose another outputs_dir",
    errno.EIO: "check that disk (the kernel log names the fault), then resume the run",
    errno.ENOENT: "put the file back or resume the run, which goes on from the newest whole round",
}
DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bool": "BOOL",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8",
}  # fmt: skip


class Digest(NamedTuple):
    """What a file contains."""

    sha256: str
    """Of its bytes, in hex."""
    size: int
    """In bytes."""


@contextmanager
def storage_errors(path: Path, action: str) -> Iterator[None]:
    """Turn what can go wrong with a file into one StorageError: path, reason, remedy.

    Args:
        path: the file or folder.
        action: past participle of what was tried, such as "written".
    """
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "check that path, then resume the run")
        raise StorageError(f"{path}: cannot be {action}: {error.strerror or error}; {remedy}") from error
    except (SafetensorError, ValueError, RecursionError) as error:  # not JSON, or too deep; not UTF-8, not the record
        reason = " ".join(str(error).split())
        remedy = "the file is damaged; resume the run, which goes on from the newest whole round"
        raise StorageError(f"{path}: cannot be {action}: {reason}; {remedy}") from error


def write_bytes(path: Path, data: bytes) -> Digest:
    """Replace `path` by `data`, durably: after a crash there is the old file or the new one."""
    return _write(path, [data])


def write_json(path: Path, obj: Any) -> Digest:
    """Replace `path` by `obj` as JSON; equal objects give equal bytes."""
    return write_bytes(path, (json.dumps(obj, indent=2, sort_keys=True) + "\n").encode())


def write_sealed(path: Path, record: Mapping[str, Any]) -> Digest:
    """`write_json` with a checksum of the rest in the record, so that `read_sealed` sees a single flipped bit."""
    return write_json(path, {**record, CHECKSUM: _checksum(record)})


def write_tensors(path: Path, tensors: Tensors) -> Digest:
    """Replace `path` by a safetensors file whose bytes are a pure function of the tensors' names and values.

    The tensors are streamed: safetensors' own writer would hold a second copy of them in memory, or leave a
    temporary file of unknown name behind when it is killed.

    Raises:
        KeyError: a dtype that safetensors does not know.
        StorageError: the file cannot be written.
    """
    return _write(path, _safetensors(tensors))


def copy_file(source: Path, target: Path, sha256: str | None = None) -> Digest:
    """Replace `target` by a durable copy of `source`; StorageError, and no copy, where that has not this SHA-256."""
    return _write(target, _chunks(source), lambda digest: _hold_against(source, digest, sha256))


def append_line(path: Path, text: str) -> None:
    """Append one line, durably. A crash can tear only the last line, and the next append starts a new one."""
    make_folder(path.parent)
    with storage_errors(path, "written"), os.fdopen(_open_to_append(path), "rb+") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                text = "\n" + text
        file.write(text.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _open_to_append(path: Path) -> int:
    return untrusted.open_plain(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, durably; one that exists is left alone."""
    with storage_errors(folder, "created"):
        for path in reversed((folder, *folder.parents)):
            if not path.exists():
                path.mkdir(exist_ok=True)
                sync_folder(path.parent)
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))


def move(source: Path, target: Path) -> None:
    """Rename within one folder, durably."""
    with storage_errors(source, f"renamed to {target.name}"):
        source.rename(target)
        sync_folder(target.parent)


def remove_folder(folder: Path) -> None:
    """Remove a folder so that a crash leaves it whole or out of sight (`.trash-<name>`, see `sweep_trash`)."""
    sweep_trash(folder.parent)
    move(folder, folder.with_name(f".trash-{folder.name}"))
    sweep_trash(folder.parent)


def sweep_trash(folder: Path) -> None:
    """Remove what a killed `remove_folder` left in a folder."""
    with storage_errors(folder, "swept"):
        for trash in folder.glob(".trash-*"):
            untrusted.remove_tree(trash)


def sweep_temporaries(folder: Path) -> None:
    """Remove what killed writers left in a folder and below; call it only when none is at work there."""
    with storage_errors(folder, "swept"):
        for path in untrusted.below(folder, DEEPEST):
            if path.name.startswith(".") and path.name.endswith(".tmp"):
                with suppress(IsADirectoryError, PermissionError):  # no writer's; in a folder that a client has closed
                    path.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """Read a JSON file; StorageError when it is missing or damaged."""
    with storage_errors(path, "read"):
        return json.loads(untrusted.read(path, most=None))


def read_sealed(path: Path, most: int | None = None) -> dict[str, Any]:
    """Read what `write_sealed` wrote; StorageError when it is missing or damaged, or larger than `most` bytes."""
    with storage_errors(path, "read"):
        record = json.loads(untrusted.read(path, most))
        if not isinstance(record, dict) or record.pop(CHECKSUM, None) != _checksum(record):
            raise ValueError(f"its {CHECKSUM} does not fit the rest")
        return record


def read_tensors(path: Path, most: int | None = None) -> dict[str, NDArray[Any]]:
    """Read a safetensors file: name -> array; StorageError when it is missing or damaged, or larger than `most`."""
    with storage_errors(path, "read"), untrusted.opened(path, most) as name:
        return load_file(name)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    return file_digest(path).sha256


def verify(path: Path, sha256: str | None, size: int | None = None) -> Digest:
    """What the file contains; StorageError unless it is there and has this SHA-256.

    Args:
        path: the file.
        sha256: in hex; None where any will do.
        size: in bytes, where it is to be held first: a file of another size is not read to its end.
    """
    digest = file_digest(path, size)
    _hold_against(path, digest, sha256)
    return digest


def _hold_against(path: Path, digest: Digest, sha256: str | None) -> None:
    if sha256 not in (None, digest.sha256):
        raise StorageError(
            f"{path}: its SHA-256 is not the recorded one; resume the run, which goes on from the newest whole round"
        )


def file_digest(path: Path, size: int | None = None) -> Digest:
    """Digest and size of a file; StorageError where it has not the size that is given, in bytes."""
    hasher, seen = hashlib.sha256(), 0
    with storage_errors(path, "read"), untrusted.reader(path) as file:
        there = os.fstat(file.fileno()).st_size
        while (size is None or max(seen, there) <= size) and (chunk := file.read(_CHUNK_BYTES)):
            hasher.update(chunk)
            seen += len(chunk)
        if size not in (None, seen):
            raise ValueError(f"has not the {size} bytes that are recorded")
    return Digest(hasher.hexdigest(), seen)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checksum(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _write(
    path: Path, chunks: Iterable[bytes | memoryview], check: Callable[[Digest], None] = lambda _: None
) -> Digest:
    """Temporary name, write, fsync, rename, fsync of the folder: each a step that a crash may end at.

    Args:
        path: the file.
        chunks: what is to be in it.
        check: raises where that shall not be.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storage_errors(path, "written"):
        try:
            digest = _write_synced(temporary, chunks)
            check(digest)
            temporary.replace(path)
            sync_folder(path.parent)
        finally:
            with suppress(OSError):  # gone after the rename; a fault here must not hide the first one
                temporary.unlink()
    return digest


def _write_synced(path: Path, chunks: Iterable[bytes | memoryview]) -> Digest:
    hasher, size = hashlib.sha256(), 0
    path.unlink(missing_ok=True)
    with os.fdopen(untrusted.open_plain(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
        for chunk in chunks:
            file.write(chunk)
            hasher.update(chunk)
            size += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    return Digest(hasher.hexdigest(), size)


def _chunks(path: Path) -> Iterator[bytes]:
    with storage_errors(path, "read"), untrusted.reader(path) as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _safetensors(tensors: Tensors) -> Iterator[bytes | memoryview]:
    """The safetensors format: length of the header, header as JSON, then the tensors, widest dtype first to align."""
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


def exists(path: Path) -> bool:
    """Whether something is there; StorageError where that cannot be told."""
    with storage_errors(path, "read"):
        return path.exists()


def listdir(folder: Path) -> list[Path]:
    """What a folder holds; StorageError where it cannot be read."""
    with storage_errors(folder, "read"):
        return list(folder.iterdir())
