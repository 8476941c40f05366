"""How much memory this machine and a process tree use now. Only reads: imports no torch, makes no CUDA context."""

import resource
import sys
from dataclasses import dataclass

import psutil

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
    allocated, total = _vram()
    return Snapshot(rss, tree, host.total, host.available, host.percent, allocated, total)


def peak_rss_bytes() -> int:
    """Largest resident memory that this process has had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB, macOS in bytes


def gib(n: int) -> str:
    """Write a number of bytes as text, such as `1.23 GiB`."""
    return f"{n / 2**30:.2f} GiB"


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


def _vram() -> tuple[int, int] | tuple[None, None]:
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    is_initialized = getattr(cuda, "is_initialized", None)  # absent while another thread is still importing torch
    if cuda is None or is_initialized is None or not is_initialized():
        return None, None
    return int(cuda.memory_allocated()), int(cuda.get_device_properties(cuda.current_device()).total_memory)
