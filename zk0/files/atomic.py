"""Durable files: written whole or not at all, read back or refused, every fault as one StorageError.

Only plain files are read and appended to, never through a link: see `untrusted`.
"""

import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from zk0.errors import DamageError, StorageError
from zk0.files import untrusted
from zk0.files.tensors import Entry, TensorFile, Tensors, read_entry, serialised

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
    errno.ESTALE: "mount that file system again, then resume the run",
    errno.ETIMEDOUT: "see that its server answers, then resume the run",
    errno.ENOMEM: "free some memory, then resume the run",
    errno.EMFILE: "raise the limit of open files (`ulimit -n`), then resume the run",
    errno.ENFILE: "raise the system's limit of open files, then resume the run",
    errno.ENOLINK: "bring back what it leads to, such as a disk, then resume the run",
}
_GONE = {errno.ENOENT, errno.ENOTDIR}


class Digest(NamedTuple):
    """What a file contains."""

    sha256: str
    """Of its bytes, in hex."""
    size: int
    """In bytes."""


@contextmanager
def storage_errors(path: Path, action: str) -> Iterator[None]:
    """Turn what can go wrong with a file into one StorageError: path, reason, remedy.

    A DamageError, where the file is gone, no plain file, or not what was written; all else that a disk answers may
    pass, and says nothing of what lies on it.

    Args:
        path: the file or folder.
        action: past participle of what was tried, such as "written".
    """
    try:
        yield
    except OSError as error:
        raise _fault(path, action, error) from error
    except MemoryError as error:
        if action != "read":  # a piece of work that has too little is done again in smaller parts
            raise
        raise _fault(path, action, OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))) from error
    except (ValueError, RecursionError) as error:  # not JSON, or too deep; not UTF-8, not the record, no tensors
        reason = " ".join(str(error).split())
        remedy = "the file is damaged; resume the run, which goes on from the newest whole round"
        raise DamageError(f"{path}: cannot be {action}: {reason}; {remedy}") from error


def _fault(path: Path, action: str, error: OSError) -> StorageError:
    said = f"{path}: cannot be {action}: {error.strerror or error}"
    if isinstance(error, untrusted.OddFileError):
        return DamageError(f"{said}; move it away, then resume the run")
    if error.errno in _GONE:
        try:
            link = untrusted.leads_nowhere(path)
        except OSError as fault:
            return _fault(path, action, fault)
        if link is None:
            remedy = "put the file back or resume the run, which goes on from the newest whole round"
            return DamageError(f"{said}; {remedy}")
        return StorageError(f"{said}: {link} is a link that leads nowhere; {_REMEDIES[errno.ENOLINK]}")
    return StorageError(f"{said}; {_REMEDIES.get(error.errno or 0, 'check that path, then resume the run')}")


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
    return _write(path, serialised(tensors))


def copy_file(source: Path, target: Path, sha256: str | None = None, *, follow: bool = False) -> Digest:
    """Replace `target` by a durable copy of `source`; StorageError, and no copy, where that has not this SHA-256."""
    return _write(target, _chunks(source, follow=follow), lambda digest: _hold_against(source, digest, sha256))


def append_line(path: Path, text: str) -> None:
    """Append one line, durably. A crash can tear only the last line, and the next append starts a new one."""
    make_folder(path.parent)
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
    with storage_errors(path, "written"), os.fdopen(untrusted.open_plain(path, flags), "rb+") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                text = "\n" + text
        file.write(text.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, durably; one that exists is left alone."""
    with storage_errors(folder, "created"):
        for path in reversed((folder, *folder.parents)):
            if untrusted.status(path) is None:
                path.mkdir(exist_ok=True)
                sync_folder(path.parent)
        if not is_folder(folder):
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
    for trash in listed(folder, ".trash-*"):
        with storage_errors(trash, "removed"):
            untrusted.remove_tree(trash)


def sweep_temporaries(folder: Path) -> None:
    """Remove what killed writers left in a folder and below; call it only when none is at work there."""
    with storage_errors(folder, "swept"):
        for path in untrusted.below(folder, DEEPEST):
            if path.name.startswith(".") and path.name.endswith(".tmp"):
                with suppress(IsADirectoryError, PermissionError):  # no writer's; in a folder that a client has closed
                    path.unlink(missing_ok=True)


def read_json(path: Path, *, follow: bool = False) -> Any:
    """Read a JSON file; StorageError when it is missing or damaged.

    Args:
        path: the file.
        follow: whether it may lie behind a link, such as on another disk: in a folder that no client writes.
    """
    with storage_errors(path, "read"):
        return json.loads(untrusted.read(path, most=None, follow=follow))


def read_text(path: Path) -> str:
    """Read a file of lines, behind a link too; nothing where it is not there, StorageError where it cannot be read."""
    if not exists(path):
        return ""
    with storage_errors(path, "read"):
        return untrusted.read(path, most=None, follow=True).decode(errors="replace")


def read_sealed(path: Path, most: int | None = None, *, follow: bool = False) -> dict[str, Any]:
    """Read what `write_sealed` wrote; StorageError when it is missing or damaged, or larger than `most` bytes."""
    with storage_errors(path, "read"):
        record = json.loads(untrusted.read(path, most, follow=follow))
        if not isinstance(record, dict) or record.pop(CHECKSUM, None) != _checksum(record):
            raise ValueError(f"its {CHECKSUM} does not fit the rest")
        return record


def read_tensors(path: Path, most: int | None = None, *, follow: bool = False) -> dict[str, NDArray[Any]]:
    """Read a safetensors file: name -> array; StorageError when it is missing or damaged, or larger than `most`."""
    with opened_tensors(path, most, follow=follow) as file:
        return {name: file.read(name) for name in file.entries}


@contextmanager
def opened_tensors(path: Path, most: int | None = None, *, follow: bool = False) -> Iterator[TensorFile]:
    """A safetensors file whose tensors are read one by one; raises as `read_tensors`, within the statement too."""
    with storage_errors(path, "read"), untrusted.reader(path, most, follow=follow) as file:
        yield TensorFile(file)


def read_tensor(path: Path, entry: Entry, rows: slice | None = None, *, follow: bool = False) -> NDArray[Any]:
    """One tensor of a file that was opened before, or some rows of it; raises as `read_tensors`."""
    with storage_errors(path, "read"), untrusted.reader(path, follow=follow) as file:
        return read_entry(file, entry, rows)


def verify(path: Path, sha256: str | None, size: int | None = None, *, follow: bool = False) -> Digest:
    """What the file contains; StorageError unless it is there and has this SHA-256.

    Args:
        path: the file.
        sha256: in hex; None where any will do.
        size: in bytes, where it is to be held first: a file of another size is not read to its end.
        follow: see `read_json`; safe where the digest is our own, wherever the file lies.
    """
    digest = file_digest(path, size, follow=follow)
    _hold_against(path, digest, sha256)
    return digest


def _hold_against(path: Path, digest: Digest, sha256: str | None) -> None:
    if sha256 not in (None, digest.sha256):
        raise DamageError(
            f"{path}: its SHA-256 is not the recorded one; resume the run, which goes on from the newest whole round"
        )


def file_digest(path: Path, size: int | None = None, *, follow: bool = False) -> Digest:
    """Digest and size of a file; StorageError where it has not the size that is given, in bytes."""
    hasher, seen = hashlib.sha256(), 0
    with storage_errors(path, "read"), untrusted.reader(path, follow=follow) as file:
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


def _chunks(path: Path, *, follow: bool) -> Iterator[bytes]:
    with storage_errors(path, "read"), untrusted.reader(path, follow=follow) as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def exists(path: Path) -> bool:
    """Whether something is there, through links; StorageError where that cannot be told, or a link leads nowhere."""
    with storage_errors(path, "read"):
        return untrusted.status(path) is not None


def is_folder(path: Path) -> bool:
    """Whether a folder is there; raises as `exists`."""
    with storage_errors(path, "read"):
        found = untrusted.status(path)
        return found is not None and stat.S_ISDIR(found.st_mode)


def is_there(path: Path) -> bool:
    """Whether anything has this name, a link that leads nowhere included; StorageError where that cannot be told."""
    with storage_errors(path, "read"):
        return untrusted.is_there(path)


def listed(folder: Path, pattern: str = "*") -> list[Path]:
    """What of a folder has such a name, in order; nothing where it is not there. StorageError where it cannot be read.

    `Path.glob` says nothing of a folder that it cannot read.
    """
    if not is_folder(folder):
        return []
    with storage_errors(folder, "read"):
        return sorted(path for path in folder.iterdir() if fnmatchcase(path.name, pattern))
