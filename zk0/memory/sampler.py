"""The sampler: one thread per process that writes what memory is used to memory.jsonl, and keeps the peaks by phase."""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import psutil
from loguru import logger

from zk0.errors import StorageError
from zk0.files import atomic, untrusted
from zk0.layout import MEMORY_FILE
from zk0.memory import cgroup
from zk0.memory import usage as memory_usage
from zk0.memory.gpu import read_gpus
from zk0.memory.samples import MAX_BYTES, Peak, Sample, thin_out

SYNC_INTERVAL_S = 5.0
"""Every sample is flushed to the kernel; after this time it is on the disk, too."""
ENDED = "end"
"""Phase of the last sample of an orchestrator that ended by itself, by an error too; one that was killed has none."""
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
            sampler.enter(ENDED)


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
        self._meter = memory_usage.TreeMeter()
        self._lock = threading.RLock()
        self._end = threading.Event()
        self._file: IO[bytes] | None = None
        self._synced = time.monotonic()
        self._warned = False
        self._thread = threading.Thread(target=self._run, name="zk0-memory", daemon=True)

    def __enter__(self) -> Self:
        memory_usage.reset_high_water()
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
        """Begin a phase: one sample closes the one before, and is the first of this."""
        with self._lock:
            last = self._sampled(anew=False)
            self._phase = name
            memory_usage.reset_high_water()
            self._count(replace(last, phase=name, high_water=last.tree))

    def sample(self, *, write: bool = True) -> Sample:
        """Read once, now."""
        with self._lock:
            return self._sampled(write=write)

    def _sampled(self, *, write: bool = True, anew: bool = True) -> Sample:
        taken = self._read(anew)
        self._count(taken)
        if write:
            self._write(taken)
        return taken

    def _count(self, taken: Sample) -> None:
        self.newest = taken
        peak = self.peaks.setdefault(taken.phase, Peak())
        if taken.high_water >= peak.ram:
            peak.ram, peak.capacity = taken.high_water, taken.capacity
        if taken.vram_total is not None:
            peak.vram_total, peak.vram = taken.vram_total, max(peak.vram, memory_usage.peak_vram() or 0)

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
            memory_usage.reset_high_water()
        return taken

    def _run(self) -> None:
        while not self._end.wait(self._interval_s):
            self.sample()

    def _read(self, anew: bool) -> Sample:
        tree, rss, processes = self._meter.read(anew=anew)
        host = psutil.virtual_memory()
        group = cgroup.of_process()
        usage = group.usage() if group else None
        vram, vram_total = memory_usage.vram()
        return Sample(
            at=time.time(),
            started=self._started,
            phase=self._phase,
            rss=rss,
            tree=tree,
            high_water=tree + max(0, memory_usage.high_water_bytes() - rss),
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
            self._file = os.fdopen(untrusted.open_ours(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab", 0)
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
