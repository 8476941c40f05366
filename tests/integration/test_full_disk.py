"""A disk that fills up while a run is under way: exit code 4, nothing lost, and it goes on when there is space."""

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.service import CommandLine
from tests.conftest import fill

pytestmark = pytest.mark.slow


def test_a_full_disk_ends_the_run_with_4_and_the_run_goes_on_with_space(
    zk0: CommandLine, reference: str, make_disk: Callable[[str], Path]
) -> None:
    disk = make_disk("500m")
    config = zk0.config(outputs_dir=str(disk))
    rounds = disk / "full" / "rounds"
    # The aggregated tensors of round 2 are there: it is being evaluated, then committed.
    process = zk0.start_until((rounds / "0002" / "global.safetensors").is_file, "run", config, "--name", "full")
    filler = fill(disk)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 4, output
    assert "No space left" in output
    assert "free some space" in output
    assert "Traceback" not in output
    assert not (rounds / "0002" / "manifest.json").exists()
    filler.unlink()
    fit = rounds / "0002" / "clients" / "kitchen" / "train.json"
    finished = fit.stat().st_mtime_ns
    zk0.run("run", config, "--name", "full")
    global_tensors = (rounds / "0002" / "global.safetensors").read_bytes()
    assert global_tensors == (zk0.outputs / "reference" / "rounds" / "0002" / "global.safetensors").read_bytes()
    assert fit.stat().st_mtime_ns == finished, "trained twice"
