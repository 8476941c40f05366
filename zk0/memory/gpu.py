"""The GPUs of this machine by NVML, whoever uses them. Makes no CUDA context; without a driver there are none."""

from dataclasses import dataclass
from functools import cache

import pynvml


@dataclass(frozen=True)
class GpuMemory:
    """One GPU at one moment."""

    index: int
    """NVML's index."""
    used_bytes: int
    """In use by all processes."""
    total_bytes: int
    """Its memory."""


def read_gpus() -> list[GpuMemory]:
    """Memory of every GPU; empty where NVML finds none, or fails."""
    try:
        readings = [pynvml.nvmlDeviceGetMemoryInfo(handle) for handle in _handles()]
    except pynvml.NVMLError:
        return []
    return [GpuMemory(index, int(item.used), int(item.total)) for index, item in enumerate(readings)]


@cache
def _handles() -> tuple[object, ...]:
    try:
        pynvml.nvmlInit()
        return tuple(pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError:  # no driver, or none that works: looked for once in a process
        return ()
