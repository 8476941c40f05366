"""The sampler against this very process and real files."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise

import psutil
import pytest
from loguru import logger

from zk0.layout import MEMORY_FILE
from zk0.memory import sampler as memory_sampler
from zk0.memory.sampler import MemorySampler
from zk0.memory.samples import last_words, read_samples
from zk0.memory.usage import peak_rss_bytes

MIB = 2**20


def wait_for(seen):
    deadline = time.monotonic() + 20
    while not seen():
        assert time.monotonic() < deadline, "not seen in time"
        time.sleep(0.01)


def test_samples_come_by_themselves_and_are_readable_while_it_runs(tmp_path):
    block = bytearray(b"x") * (400 * MIB)  # so that its percent, of one decimal, is exact enough
    with MemorySampler(tmp_path, 0.05, "start"):
        wait_for(lambda: len(read_samples(tmp_path)) >= 4)
        sample = read_samples(tmp_path)[-1]
    del block
    assert sample["pid"] == os.getpid()
    assert sample["phase"] == "start"
    assert 0 < sample["rss_gib"] <= sample["peak_gib"] + 0.5
    assert 0 < sample["tree_pct"] < 100
    assert sample["tree_gib"] / sample["tree_pct"] * 100 == pytest.approx(
        sample.get("cgroup_limit_gib") or sample["ram_gib"] / sample["ram_pct"] * 100, rel=0.1
    )
    assert "vram_gib" not in sample or sample["vram_pct"] <= 100


def test_a_peak_between_two_samples_is_kept_and_counted_to_its_phase(tmp_path):
    before = psutil.Process().memory_info().rss  # the sampler counts what else runs below us too
    with MemorySampler(tmp_path, 60, "quiet") as sampler:
        with sampler.phase("busy"):
            block = bytearray(b"x") * (200 * MIB)
            del block
        with sampler.phase("after"):
            pass
        peaks = sampler.take_peaks()
    assert set(peaks) == {"quiet", "busy", "after"}
    assert 190 * MIB < peaks["busy"].ram - peaks["quiet"].ram < 260 * MIB
    assert peaks["after"].ram < peaks["busy"].ram - 150 * MIB
    assert peak_rss_bytes() >= before + 150 * MIB, "the process's own peak was forgotten"


def test_descendants_count(tmp_path):
    hold = "import sys; block = bytearray(b'x') * (64 << 20); print('ready', flush=True); sys.stdin.read()"
    with MemorySampler(tmp_path, 60, "x") as sampler:
        before = sampler.sample()
        with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            assert child.stdout.readline() == b"ready\n"
            during = sampler.sample()
            child.stdin.close()
    assert during.tree - before.tree >= 60 * MIB
    assert during.processes == before.processes + 1


def test_the_file_stays_small_and_keeps_its_oldest_and_newest_samples(tmp_path, monkeypatch):
    with MemorySampler(tmp_path, 60, "x") as sampler:
        begin = sampler.newest.at
        limit = 238 * (len(json.dumps(sampler.newest.line())) + 4)  # about 64 KiB; a line's length is the machine's
        monkeypatch.setattr(memory_sampler, "MAX_BYTES", limit)
        for index in range(1500):
            sampler._write(replace(sampler.newest, at=begin + index, phase=str(index)))
            assert (tmp_path / MEMORY_FILE).stat().st_size <= limit + 1024
    phases = [int(line["phase"]) for line in read_samples(tmp_path) if line["phase"].isdigit()]
    assert phases == sorted(phases)
    gaps = [later - earlier for earlier, later in pairwise(phases)]
    assert phases[0] < 60, "the beginning is gone"
    assert max(gaps) < 60, "the history has a hole"
    assert set(range(1450, 1500)) <= set(phases)


def test_a_torn_line_is_left_out_and_the_next_sample_is_whole(tmp_path):
    (tmp_path / MEMORY_FILE).write_text('{"phase": "old"}\n{"pha')
    with MemorySampler(tmp_path, 60, "new"):
        pass
    assert [line["phase"] for line in read_samples(tmp_path)] == ["old", "new", "new"]


def test_a_disk_that_cannot_be_written_costs_samples_not_the_work(tmp_path):
    said: list[str] = []
    sink = logger.add(said.append, level="WARNING", format="{message}")
    (tmp_path / "file").write_text("")
    with MemorySampler(tmp_path / "file", 0.05, "x") as sampler:
        time.sleep(0.2)
        assert sampler.take_peaks()["x"].ram > 0
    logger.remove(sink)
    assert len(said) == 1
    assert "memory samples are lost" in said[0]


def test_every_sample_is_flushed_and_the_file_synced_every_few_seconds(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(time.monotonic()) or fsync(descriptor))
    monkeypatch.setattr(memory_sampler, "SYNC_INTERVAL_S", 0.2)
    with MemorySampler(tmp_path, 0.05, "x"):
        wait_for(lambda: len(synced) >= 3)
    assert min(later - earlier for earlier, later in pairwise(synced)) >= 0.19


def test_the_samples_of_a_killed_process_remain(tmp_path):
    code = (
        "import sys, os, signal, pathlib; from zk0.memory.sampler import MemorySampler\n"
        "with MemorySampler(pathlib.Path(sys.argv[1]), 0.05, 'load') as sampler:\n"
        "    block = bytearray(b'x') * (100 << 20); sampler.sample(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -9
    assert read_samples(tmp_path)[-1]["rss_gib"] > 0.1
    assert last_words(tmp_path).startswith("used 0.")


def test_the_orchestrators_figures(tmp_path):
    assert memory_sampler.round_figures() is None
    with memory_sampler.phase("fit"):
        pass  # not watched: nothing happens
    with memory_sampler.watched(tmp_path, 60):
        with memory_sampler.phase("fit"):
            block = bytearray(b"x") * (100 * MIB)
            del block
        first, second = memory_sampler.round_figures(), memory_sampler.round_figures()
    assert first["pid"] == os.getpid()
    assert first["peak_ram_bytes"]["fit"] - second["peak_ram_bytes"]["start"] > 50 * MIB
    assert set(second["peak_ram_bytes"]) == {"start"}, "the peaks of a round begin anew"
    assert 0 < first["rss_bytes"] < first["capacity_bytes"]
