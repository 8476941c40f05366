"""The memory cgroup that a process runs in, version 1 or 2: usage, limit, and how often the kernel killed in it."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from zk0.files import untrusted

PROC = Path("/proc")
_UNLIMITED = 2**60
"""Version 1 writes "no limit" as a number of this order."""


@dataclass(frozen=True)
class Cgroup:
    """A memory cgroup by its folder."""

    folder: Path
    """Its folder in the cgroup file system, as this process sees it."""
    top: Path
    """Where that file system is mounted: limits apply from there down to `folder`."""
    version: int
    """1 or 2."""

    def usage(self) -> tuple[int, int] | None:
        """Bytes in use, and the tightest limit that holds for this cgroup; None where there is no limit.

        What the kernel would drop by itself (file pages that nobody used lately) does not count as in use.
        """
        tightest: tuple[int, Path] | None = None
        for folder in self._levels():
            limit = _number(folder / ("memory.max" if self.version == 2 else "memory.limit_in_bytes"))
            if limit is not None and limit < _UNLIMITED and (tightest is None or limit < tightest[0]):
                tightest = (limit, folder)
        if tightest is None:
            return None
        limit, folder = tightest
        used = _number(folder / ("memory.current" if self.version == 2 else "memory.usage_in_bytes")) or 0
        idle = _entry(folder / "memory.stat", "inactive_file" if self.version == 2 else "total_inactive_file") or 0
        return max(0, used - idle), limit

    def oom_kills(self) -> int:
        """How many processes in it the kernel has killed for want of memory; only differences mean something."""
        kills = kills_in(self.folder)
        return kills if kills is not None else machine_oom_kills()

    def _levels(self) -> list[Path]:
        inside = self.folder.relative_to(self.top).parts
        return [self.top.joinpath(*inside[:depth]) for depth in range(len(inside), -1, -1)]


def kills_in(folder: Path) -> int | None:
    """How many processes the kernel has killed for want of memory in a cgroup; None where that is not known."""
    for name in ("memory.events", "memory.oom_control"):  # version 2, version 1
        if (kills := _entry(folder / name, "oom_kill")) is not None:
            return kills
    return machine_oom_kills() if folder.is_dir() else None


def machine_oom_kills() -> int:
    """How many processes the kernel has killed for want of memory since it started; 0 where it does not tell."""
    return _entry(PROC / "vmstat", "oom_kill") or 0


def of_process(pid: int | str = "self") -> Cgroup | None:
    """The memory cgroup of a process; None where there is none, or the process is gone.

    Args:
        pid: the process; this one by default.
    """
    own = _read(PROC / str(pid) / "cgroup")
    mounts = _read(PROC / "self" / "mountinfo")
    for version in (1, 2):  # where both are mounted, the memory controller is in one of them: v1 where it is named
        path = _path_in(own, version)
        found = None if path is None else _folder(path, mounts, version)
        if found is not None and (found.folder / ("memory.stat" if version == 2 else "memory.usage_in_bytes")).exists():
            return found
    return None


def _path_in(text: str, version: int) -> str | None:
    """The path of a process in its hierarchy, of `/proc/<pid>/cgroup`: lines of `id:controllers:path`."""
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if (version == 1 and "memory" in controllers.split(",")) or (version == 2 and not controllers):
            return path
    return None


def _folder(path: str, mounts: str, version: int) -> Cgroup | None:
    for line in mounts.splitlines():
        fields, _, source = line.partition(" - ")
        kind, _, options = source.partition(" ")
        is_memory = kind == "cgroup" and "memory" in options.split(" ")[-1].split(",")
        if kind != "cgroup2" if version == 2 else not is_memory:
            continue
        root, top = fields.split(" ")[3:5]
        # In a container the mount may show only its own part of the hierarchy, while the path counts from the top.
        inside = PurePosixPath(path)
        relative = inside.relative_to(root) if inside.is_relative_to(root) else PurePosixPath()
        folder = Path(top) / relative
        return Cgroup(folder if folder.is_dir() else Path(top), Path(top), version)
    return None


def _read(path: Path) -> str:
    try:
        return untrusted.read(path).decode(errors="replace")  # what folder it is may be a client's word
    except (OSError, ValueError):  # ValueError: that is no name for a file
        return ""


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdigit() else None  # version 2 writes "max" for no limit


def _entry(path: Path, key: str) -> int | None:
    for line in _read(path).splitlines():
        name, _, value = line.partition(" ")
        if name == key and value.strip().isdigit():
            return int(value)
    return None
