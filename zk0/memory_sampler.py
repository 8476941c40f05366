"""The sampler: one thread per process that writes what memory is used to memory.jsonl, and keeps the peaks by phase."""

import json
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import psutil
from loguru import logger

from zk0 import atomic, cgroup, foreign, memory
from zk0.errors import StorageError
from zk0.figures import number
from zk0.gpu import GpuMemory, read_gpus

MEMORY_FILE = "memory.jsonl"
SYNC_INTERVAL_S = 5.0
"""Every sample is flushed to the kernel; after this time it is on the disk, too."""
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
            "rss_gib": gib(self.rss),
            "tree_gib": gib(self.tree),
            "tree_pct": percent(self.tree, self.capacity),
            "peak_gib": gib(self.high_water),
            "processes": self.processes,
            "ram_gib": gib(self.ram_used),
            "ram_pct": percent(self.ram_used, self.ram_total),
            "oom_kills": self.oom_kills,
        }
        if self.cgroup is not None:
            text["cgroup"] = self.cgroup
        if self.cgroup_used is not None and self.cgroup_limit is not None:
            text |= {"cgroup_gib": gib(self.cgroup_used), "cgroup_pct": percent(self.cgroup_used, self.cgroup_limit)}
            text["cgroup_limit_gib"] = gib(self.cgroup_limit)
        if self.vram is not None and self.vram_total is not None:
            text |= {"vram_gib": gib(self.vram), "vram_pct": percent(self.vram, self.vram_total)}
        if self.gpus:
            text["gpus"] = [[gib(gpu.used_bytes), percent(gpu.used_bytes, gpu.total_bytes)] for gpu in self.gpus]
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


_current: list["MemorySampler"] = []
"""The orchestrator's sampler, while it has one."""


@contextmanager
def watched(folder: Path, interval_s: float) -> Iterator[None]:
    """Sample this process, the one that advances a run, into the run directory."""
    with MemorySampler(folder, interval_s, "start") as sampler:
        _current.append(sampler)
        try:
            yield
        finally:
            _current.remove(sampler)


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Count what the orchestrator uses inside to a phase; nothing where it is not watched."""
    if not _current:
        yield
        return
    with _current[-1].phase(name):
        yield


def round_figures() -> dict[str, Any] | None:
    """The orchestrator's memory since the last call: now, its peaks by phase, and its capacity; None if not watched.

    `rss_bytes` is this process alone, which is what must not grow; the peaks are those of it and its descendants.
    """
    if not _current:
        return None
    now = _current[-1].sample()
    peaks = _current[-1].take_peaks()
    return {
        "pid": os.getpid(),
        "rss_bytes": now.rss,
        "capacity_bytes": now.capacity,
        "peak_ram_bytes": {name: peak.ram for name, peak in peaks.items()},
    }


class MemorySampler:
    """Samples this process's tree until it is closed; a disk that cannot be written costs samples, never the work.

    Args:
        folder: where memory.jsonl is appended to.
        interval_s: from one sample to the next, in seconds.
        phase: what the process is at first.
    """

    def __init__(self, folder: Path, interval_s: float, phase: str) -> None:
        self.path = folder / MEMORY_FILE
        self.peaks: dict[str, Peak] = {}
        self.newest: Sample | None = None
        self._interval_s = interval_s
        self._started = psutil.Process().create_time()
        self._phase = phase
        self._meter = memory.TreeMeter()
        self._lock = threading.RLock()
        self._end = threading.Event()
        self._file: IO[bytes] | None = None
        self._synced = time.monotonic()
        self._warned = False
        self._thread = threading.Thread(target=self._run, name="zk0-memory", daemon=True)

    def __enter__(self) -> Self:
        memory.reset_high_water()
        self.sample()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end.set()
        self._thread.join()
        self.sample()
        with self._lock:
            self._close_file()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what is used inside to a phase; the one before goes on afterwards."""
        before = self._phase
        self.enter(name)
        try:
            yield
        finally:
            self.enter(before)

    def enter(self, name: str) -> None:
        """Begin a phase: a sample closes the one before."""
        with self._lock:
            self.sample()
            self._phase = name
            memory.reset_high_water()
            self.sample(write=False)

    def sample(self, *, write: bool = True) -> Sample:
        """Read once, now."""
        with self._lock:
            taken = self._read()
            self.newest = taken
            peak = self.peaks.setdefault(taken.phase, Peak())
            if taken.high_water >= peak.ram:
                peak.ram, peak.capacity = taken.high_water, taken.capacity
            if taken.vram_total is not None:
                peak.vram_total, peak.vram = taken.vram_total, max(peak.vram, memory.peak_vram() or 0)
            if write:
                self._write(taken)
        return taken

    def note_vram(self, allocated: int) -> None:
        """Tell of an exact peak of torch's on the GPU, such as a training step's, which no sample may have met."""
        with self._lock:
            peak = self.peaks.setdefault(self._phase, Peak())
            peak.vram = max(peak.vram, allocated)

    def take_peaks(self) -> dict[str, Peak]:
        """Give the peaks by phase, and begin them anew."""
        with self._lock:
            self.sample()
            taken, self.peaks = self.peaks, {}
            memory.reset_high_water()
        return taken

    def _run(self) -> None:
        while not self._end.wait(self._interval_s):
            self.sample()

    def _read(self) -> Sample:
        tree, rss, processes = self._meter.read()
        host = psutil.virtual_memory()
        group = cgroup.of_process()
        usage = group.usage() if group else None
        vram, vram_total = memory.vram()
        return Sample(
            at=time.time(),
            started=self._started,
            phase=self._phase,
            rss=rss,
            tree=tree,
            high_water=tree + max(0, memory.high_water_bytes() - rss),
            processes=processes,
            ram_used=host.total - host.available,
            ram_total=host.total,
            cgroup_used=usage[0] if usage else None,
            cgroup_limit=usage[1] if usage else None,
            cgroup=str(group.folder) if group else None,
            oom_kills=group.oom_kills() if group else cgroup.machine_oom_kills(),
            vram=vram,
            vram_total=vram_total,
            gpus=read_gpus(),
        )

    def _write(self, taken: Sample) -> None:
        try:
            with atomic.storage_errors(self.path, "written"):
                self._append((json.dumps(taken.line()) + "\n").encode())
        except StorageError as error:
            self._close_file()
            if not self._warned:
                logger.warning("memory samples are lost: {}", error)
            self._warned = True

    def _append(self, line: bytes) -> None:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.fdopen(foreign.open_ours(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab", 0)
            if self._file.tell():
                line = b"\n" + line  # the line before may be torn; empty ones are no samples
        self._file.write(line)
        now = time.monotonic()
        if now - self._synced >= SYNC_INTERVAL_S:
            os.fsync(self._file.fileno())
            self._synced = now
        if self._file.tell() > MAX_BYTES:
            self._close_file()
            thin_out(self.path)

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


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


def read_samples(folder: Path) -> list[dict[str, Any]]:
    """The lines of a folder's memory.jsonl, oldest first, torn ones left out; none where the file cannot be read.

    Of a file larger than any that is written here, its end.
    """
    try:
        texts = foreign.tail(folder / MEMORY_FILE, 2 * MAX_BYTES).decode(errors="replace").splitlines()
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


def gib(size: float) -> float:
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
