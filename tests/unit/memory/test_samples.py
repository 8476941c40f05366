"""The file of samples, read: last words, kills, peaks."""

import json
import subprocess
import sys

from zk0.layout import MEMORY_FILE
from zk0.memory import samples as memory_samples
from zk0.memory.sampler import MemorySampler
from zk0.memory.samples import Peak, last_words, peak_metrics, read_samples


def test_nothing_is_known_where_there_was_no_sampler(tmp_path):
    assert last_words(tmp_path) == "no sample of its memory"
    assert not memory_samples.killed_for_memory(tmp_path)


def test_only_a_kill_since_the_last_sample_counts(tmp_path):
    group = tmp_path / "group"
    group.mkdir()
    (tmp_path / MEMORY_FILE).write_text(json.dumps({"pid": 1, "oom_kills": 3, "cgroup": str(group)}) + "\n")
    for kills, told in ((3, False), (4, True)):
        (group / "memory.events").write_text(f"oom_kill {kills}\n")
        assert memory_samples.killed_for_memory(tmp_path) is told


def test_a_process_that_lost_a_child_looks_back_to_its_beginning(tmp_path):
    group = tmp_path / "group"
    group.mkdir()
    (group / "memory.events").write_text("oom_kill 4\n")
    lines = [{"pid": pid, "oom_kills": kills, "cgroup": str(group)} for pid, kills in ((1, 2), (2, 3), (2, 4))]
    (tmp_path / MEMORY_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert not memory_samples.killed_for_memory(tmp_path)
    assert memory_samples.killed_for_memory(tmp_path, ever=True)


ATTEMPT = """
import pathlib, sys
from zk0.memory.sampler import MemorySampler
with MemorySampler(pathlib.Path(sys.argv[1]), 60, "train"):
    block = bytearray(b"x") * (int(sys.argv[2]) << 20)
"""


def test_the_last_words_are_of_the_last_attempt_though_its_pid_is_that_of_the_ones_before(tmp_path):
    for size in ("600", "1"):
        subprocess.run([sys.executable, "-c", ATTEMPT, str(tmp_path), size], check=True)
    samples = [sample | {"pid": 7} for sample in read_samples(tmp_path)]  # as in containers
    (tmp_path / MEMORY_FILE).write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    assert max(sample["peak_gib"] for sample in samples) > 0.58
    assert float(last_words(tmp_path).split()[1]) < 0.5


def test_a_kill_in_the_attempt_before_is_none_of_this_one(tmp_path):
    group = tmp_path / "group"
    group.mkdir()
    (group / "memory.events").write_text("oom_kill 1\n")
    lines = [{"pid": 7, "started": start, "oom_kills": start, "cgroup": str(group)} for start in (0, 1)]
    (tmp_path / MEMORY_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert not memory_samples.killed_for_memory(tmp_path, ever=True)


def test_files_from_before_the_start_times_are_read_by_pid(tmp_path):
    lines = [{"pid": pid, "peak_gib": peak, "tree_pct": 1} for pid, peak in ((1, 3), (2, 2), (2, 1))]
    (tmp_path / MEMORY_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert last_words(tmp_path).startswith("used 2 GiB")
    with MemorySampler(tmp_path, 60, "new"):
        pass
    assert not last_words(tmp_path).startswith("used 2 GiB")


def test_peaks_become_metrics():
    peaks = {"load": Peak(ram=100, capacity=1000), "train": Peak(ram=300, capacity=1000, vram=50, vram_total=200)}
    assert peak_metrics(peaks) == {
        "peak_ram_bytes": 300,
        "peak_ram_percent": 30.0,
        "ram_capacity_bytes": 1000,
        "peak_ram_load_bytes": 100,
        "peak_ram_train_bytes": 300,
        "peak_vram_bytes": 50,
        "peak_vram_percent": 25.0,
    }
    assert "peak_vram_bytes" not in peak_metrics({"load": peaks["load"]})
    whole = [value for key, value in peak_metrics(peaks).items() if key.endswith("bytes")]
    assert all(isinstance(size, int) for size in whole), "Flower would average them"
