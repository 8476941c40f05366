"""One reading of memory, its line in memory.jsonl, and what a dead process's last lines tell."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loguru import logger

from zk0.errors import StorageError
from zk0.files import atomic, untrusted
from zk0.layout import MEMORY_FILE
from zk0.memory import cgroup
from zk0.memory.gpu import GpuMemory
from zk0.metrics.values import number

MAX_BYTES = 4 * 2**20
"""Above this size half of the samples are dropped, evenly: a run of weeks keeps its whole history, only coarser."""
GIB = 2**30
_NUMBERS = ("at", "peak_gib", "tree_pct", "ram_pct", "cgroup_limit_gib", "vram_gib")
"""Of a line of memory.jsonl, what is reckoned with."""


@dataclass(frozen=True)
class Sample:
    """One reading; sizes in bytes."""

    at: float
    """Unix time, in seconds."""
    started: float
    """When the process began, in Unix time: in containers, attempt after attempt has the same pid."""
    phase: str
    """What the process was at."""
    rss: int
    """Resident memory of this process."""
    tree: int
    """Memory of this process and its descendants, see TreeMeter."""
    high_water: int
    """Like `tree`, at its highest since the phase began as far as this process's own part goes."""
    processes: int
    """Processes in the tree."""
    ram_used: int
    """In use on the host."""
    ram_total: int
    """The host's."""
    cgroup_used: int | None
    """In use in the cgroup with the tightest limit; None where none has a limit."""
    cgroup_limit: int | None
    """That limit."""
    cgroup: str | None
    """Folder of this process's cgroup."""
    oom_kills: int
    """The kernel's count of kills for want of memory there."""
    vram: int | None
    """Held by torch in this process; None where it does not use CUDA."""
    vram_total: int | None
    """Of its device."""
    gpus: list[GpuMemory] = field(default_factory=list)
    """Every GPU of the machine, whoever uses it."""

    @property
    def capacity(self) -> int:
        """What the tree can have at most: the cgroup's limit, or the host's memory."""
        return self.cgroup_limit or self.ram_total

    def line(self) -> dict[str, Any]:
        """The sample as a line of memory.jsonl: GiB, and percent of the capacity."""
        text: dict[str, Any] = {
            "at": round(self.at, 3),
            "pid": os.getpid(),
            "started": round(self.started, 2),
            "phase": self.phase,
            "rss_gib": in_gib(self.rss),
            "tree_gib": in_gib(self.tree),
            "tree_pct": percent(self.tree, self.capacity),
            "peak_gib": in_gib(self.high_water),
            "processes": self.processes,
            "ram_gib": in_gib(self.ram_used),
            "ram_pct": percent(self.ram_used, self.ram_total),
            "oom_kills": self.oom_kills,
        }
        if self.cgroup is not None:
            text["cgroup"] = self.cgroup
        if self.cgroup_used is not None and self.cgroup_limit is not None:
            text |= {"cgroup_gib": in_gib(self.cgroup_used), "cgroup_pct": percent(self.cgroup_used, self.cgroup_limit)}
            text["cgroup_limit_gib"] = in_gib(self.cgroup_limit)
        if self.vram is not None and self.vram_total is not None:
            text |= {"vram_gib": in_gib(self.vram), "vram_pct": percent(self.vram, self.vram_total)}
        if self.gpus:
            text["gpus"] = [[in_gib(gpu.used_bytes), percent(gpu.used_bytes, gpu.total_bytes)] for gpu in self.gpus]
        return text


@dataclass
class Peak:
    """The most that one phase used; bytes."""

    ram: int = 0
    """Sample.high_water."""
    capacity: int = 0
    """Sample.capacity at that moment."""
    vram: int = 0
    """Allocated by torch on the GPU."""
    vram_total: int = 0
    """Of that device; 0 without CUDA."""


def peak_metrics(peaks: Mapping[str, Peak]) -> dict[str, float]:
    """The peaks as metrics of a piece of work: of RAM in bytes, percent and by phase, and of VRAM where CUDA is used.

    What there was of RAM goes with them: a client's is its container's, not the orchestrator's.

    Bytes are whole numbers; Flower averages only the others.
    """
    highest = max(peaks.values(), key=lambda peak: peak.ram)
    metrics: dict[str, float] = {
        "peak_ram_bytes": highest.ram,
        "peak_ram_percent": percent(highest.ram, highest.capacity),
        "ram_capacity_bytes": highest.capacity,
        **{f"peak_ram_{phase}_bytes": peak.ram for phase, peak in peaks.items()},
    }
    if total := max(peak.vram_total for peak in peaks.values()):
        vram = max(peak.vram for peak in peaks.values())
        metrics |= {"peak_vram_bytes": vram, "peak_vram_percent": percent(vram, total)}
    return metrics


def thin_out(path: Path) -> None:
    """Keep about half of a file's samples, evenly spread over the time that they span, and the newest hundred."""
    samples = read_samples(path.parent)
    older, newest = samples[:-100], samples[-100:]
    times = [float(sample.get("at", 0)) for sample in older]
    apart = (times[-1] - times[0]) / (len(times) / 2) if times else 0.0
    kept, last = [], -math.inf
    for at, sample in zip(times, older, strict=True):
        if at - last >= apart:
            kept.append(sample)
            last = at
    atomic.write_bytes(path, "".join(json.dumps(sample) + "\n" for sample in [*kept, *newest]).encode())


def note_sample(folder: Path, sample: Mapping[str, Any]) -> None:
    """Append what somebody else has sampled to a folder's memory.jsonl; what only shows ends nothing."""
    path = folder / MEMORY_FILE
    try:
        atomic.append_line(path, json.dumps(sample))
        if path.stat().st_size > MAX_BYTES:
            thin_out(path)
    except (OSError, StorageError) as error:
        logger.warning("memory samples cannot be written: {}", error)


def read_samples(folder: Path) -> list[dict[str, Any]]:
    """The lines of a folder's memory.jsonl, oldest first, torn ones left out; none where the file cannot be read.

    Of a file larger than any that is written here, its end.
    """
    try:
        texts = untrusted.tail(folder / MEMORY_FILE, 2 * MAX_BYTES).decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        logger.warning("memory samples cannot be read: {}", error)
        return []
    samples = []
    for text in texts:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and all(number(line.get(key, 0)) is not None for key in _NUMBERS):
            samples.append(line)
    return samples


def last_words(folder: Path) -> str:
    """What the newest process that sampled itself in a folder used at its highest, and could have, in one line."""
    own = _newest_process(read_samples(folder))
    if not own:
        return "no sample of its memory"
    peak = max(own, key=lambda sample: float(sample.get("peak_gib", 0)))
    whole = own[-1].get("cgroup_limit_gib")
    limit = f"of {whole} GiB that the cgroup allows" if whole else f"{peak.get('tree_pct')} % of the host's memory"
    vram = max((float(sample.get("vram_gib", 0)) for sample in own), default=0)
    return f"used {peak.get('peak_gib')} GiB, {limit}" + (f", and {vram} GiB on the GPU" if vram else "")


def killed_for_memory(folder: Path, *, ever: bool = False) -> bool:
    """Whether the kernel has killed for want of memory in the cgroup of the process that last sampled itself here.

    Args:
        folder: where that process sampled itself.
        ever: since its first sample, for a process that lives and has lost a child; else since its last, for one that
            was killed by SIGKILL, which says nothing itself.
    """
    own = _newest_process(read_samples(folder))
    if not own:
        return False
    before, group = own[0 if ever else -1].get("oom_kills"), own[-1].get("cgroup")
    now = cgroup.kills_in(Path(str(group))) if group else cgroup.machine_oom_kills()
    return isinstance(before, int) and now is not None and now > before


def in_gib(size: float) -> float:
    """Bytes in GiB, to a tenth of a MiB."""
    return round(size / GIB, 4)


def percent(size: float, capacity: float) -> float:
    """Share of a capacity, 0-100."""
    return round(100 * size / capacity, 1) if capacity else 0.0


def _newest_process(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The samples of the process that sampled itself last; files from before `started` tell processes by pid alone."""
    return [sample for sample in samples if _process(sample) == _process(samples[-1])]


def _process(sample: Mapping[str, Any]) -> tuple[object, object]:
    return sample.get("pid"), sample.get("started")
