"""GPU turns: one container at a time on each, among all runs of the machine."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.unit.executors.docker.made import nvidia_smi
from zk0.executors.docker.gpu_turns import all_gpus, gpu_turn


def test_a_gpu_has_one_container_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with gpu_turn(["0", "1"], set) as first, gpu_turn(["0", "1"], set) as second:
        assert (first, second) == ("0", "1")
    with gpu_turn(["0", "1"], lambda: {"0"}) as free:
        assert free == "1", "a container without an orchestrator uses GPU 0"
    with gpu_turn([], set) as none:
        assert none is None


def test_index_and_uuid_of_a_gpu_are_one_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    nvidia_smi(tmp_path, monkeypatch, "0, GPU-a\\n1, GPU-b\\n")
    assert all_gpus() == ["0", "1"]
    with gpu_turn(["0"], set) as first, gpu_turn(["GPU-a", "GPU-b"], set) as second:
        assert (first, second) == ("0", "GPU-b")
    with gpu_turn(["1", "0"], lambda: {"GPU-b"}) as free:
        assert free == "0"
    with gpu_turn(["GPU-a", "GPU-b"], lambda: {"0", ""}) as free:
        assert free == "GPU-b"


def test_a_dead_holder_frees_its_gpu_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
    import time
    from zk0.executors.docker.gpu_turns import gpu_turn
    with gpu_turn(["99"], set):
        print("mine", flush=True)
        time.sleep(60)
    """
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        holder.kill()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert [path.name for path in tmp_path.glob("zk0-gpu-*")] == ["zk0-gpu-99.lock"]
    with gpu_turn(["99"], set) as gpu:  # an index that no machine has, so no UUID's lock
        assert gpu == "99"
