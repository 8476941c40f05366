"""How much memory this machine and a process tree use now. Only reads: imports no torch, makes no CUDA context."""

import ctypes
import gc
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from zk0.memory import cgroup

GIB = 2**30
_GONE = (psutil.NoSuchProcess, psutil.AccessDenied)
"""A process may end, or belong to another user, between being listed and being read."""


@dataclass(frozen=True)
class Snapshot:
    """One reading; every size is in bytes."""

    rss_bytes: int
    """Resident memory of the process."""
    tree_rss_bytes: int
    """Resident memory of the process and all its descendants (pages they share count once for each)."""
    ram_total_bytes: int
    """Memory of the host."""
    ram_available_bytes: int
    """What the host can still give without swapping."""
    ram_percent: float
    """Share of the host's memory that is in use, 0-100."""
    capacity_bytes: int
    """What the process tree can have at most: the limit of its cgroup, or the host's memory."""
    vram_allocated_bytes: int | None
    """What torch has allocated on the current CUDA device; None where this process does not use CUDA."""
    vram_total_bytes: int | None
    """Memory of the current CUDA device; None where this process does not use CUDA."""


def snapshot(pid: int | None = None) -> Snapshot:
    """Read the memory of a process tree, of the host and of the GPU.

    Args:
        pid: root of the process tree, this process when None. VRAM is always this process's own.

    Returns:
        The reading; a process that is gone counts 0 bytes.
    """
    rss, tree = _tree_rss(pid)
    host = psutil.virtual_memory()
    usage = group.usage() if (group := cgroup.of_process("self" if pid is None else pid)) else None
    capacity = usage[1] if usage else host.total
    return Snapshot(rss, tree, host.total, host.available, host.percent, capacity, *_vram())


_PSS_MIN_S = 5.0
_PSS_SHARE = 50
"""Reading a big process's PSS takes up to 0.1 s: it is read at most so often, and for at most 1/50 of the time."""


_TREE_S = 0.5
"""To find a process's descendants all processes of the machine are looked at: the change of a phase does not wait for
that again when it has just been done."""


class TreeMeter:
    """Memory that a process tree costs the machine, cheap enough to be read every second or two.

    What counts is the proportional set size (PSS): a page that n processes share counts 1/n in each of them, so that
    what the workers share with the server they were forked from is not counted for each. Between two readings of it,
    the change of the tree's resident memory is added. Where PSS cannot be read, resident memory stands for it.
    """

    def __init__(self) -> None:
        self._pss = self._rss = 0
        self._next = 0.0
        self._processes: list[psutil.Process] = []
        self._listed = float("-inf")

    def read(self, *, anew: bool = True) -> tuple[int, int, int]:
        """Give bytes of the tree, resident bytes of this process, and the number of processes in the tree.

        Args:
            anew: whether the tree's processes are looked for again although that has just been done.
        """
        started = time.monotonic()
        if anew or started - self._listed >= _TREE_S:
            root = psutil.Process()
            self._processes, self._listed = [root, *root.children(recursive=True)], started
        own, *others = [_rss(process) for process in self._processes]
        total = own + sum(others)
        if started >= self._next:
            self._pss, self._rss = sum(_pss(process) for process in self._processes), total
            now = time.monotonic()
            self._next = now + max(_PSS_MIN_S, _PSS_SHARE * (now - started))
        return max(0, self._pss + total - self._rss), own, 1 + sum(rss > 0 for rss in others)


_peak_before_reset = 0


def peak_rss_bytes() -> int:
    """Largest resident memory that this process has had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    now = peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB, macOS in bytes
    return max(now, _peak_before_reset)


def reset_high_water() -> None:
    """Let `high_water_bytes` begin anew; where the kernel does not allow it, it stays what it is."""
    global _peak_before_reset  # noqa: PLW0603 - the kernel forgets the peak of the process, we must not
    _peak_before_reset = peak_rss_bytes()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def high_water_bytes() -> int:
    """Largest resident memory of this process since `reset_high_water`, exact to the page however short it was."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return peak_rss_bytes()
    found = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), None)
    return peak_rss_bytes() if found is None else int(found) * 1024


def vram() -> tuple[int, int] | tuple[None, None]:
    """Bytes that torch holds on the current CUDA device (its cache included), and the device's; None without CUDA."""
    allocated, total = _vram()
    if allocated is None or total is None:
        return None, None
    return int(sys.modules["torch"].cuda.memory_reserved()), total


def peak_vram() -> int | None:
    """Most bytes that torch allocated on the current CUDA device, since its count was last reset; None without CUDA."""
    return None if _vram()[0] is None else int(sys.modules["torch"].cuda.max_memory_allocated())


def give_back() -> None:
    """Free what is garbage in cycles, and give the allocator's empty pages back to the system, where it is glibc.

    Python looks for cycles among its oldest objects only when there are a quarter more of them: in a process of some
    hundred thousand that takes many rounds, and looks like a leak.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def gib(n: int) -> str:
    """Write a number of bytes as text, such as `1.23 GiB`."""
    return f"{n / 2**30:.2f} GiB"


def container_share(total: int, available: int, places: int) -> int:
    """One container's share of the free memory less a reserve; never below 1 GiB, with which nothing would start.

    Args:
        total: memory of the machine, in bytes.
        available: what can be had without swapping, in bytes.
        places: containers that may run at the same time.
    """
    reserve = max(total // 10, 2 * GIB)
    return max((available - reserve) // places, GIB)


def _tree_rss(pid: int | None) -> tuple[int, int]:
    try:
        root = psutil.Process(pid)
        descendants = root.children(recursive=True)
    except _GONE:
        return 0, 0
    own = _rss(root)
    return own, own + sum(_rss(process) for process in descendants)


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except _GONE:
        return 0


def _pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except (*_GONE, AttributeError):  # AttributeError: a system without PSS
        return _rss(process)


def _vram() -> tuple[int, int] | tuple[None, None]:
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    is_initialized = getattr(cuda, "is_initialized", None)  # absent while another thread is still importing torch
    if cuda is None or is_initialized is None or not is_initialized():
        return None, None
    return int(cuda.memory_allocated()), int(cuda.get_device_properties(cuda.current_device()).total_memory)
