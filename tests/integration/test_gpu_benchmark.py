"""`benchmarks.gpu`: where there is no GPU it says so; what it measures is tried on the CPU with the tiny base."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def benchmark(*arguments: str) -> str:
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_without_a_gpu_it_says_so() -> None:
    assert benchmark() == "no GPU: torch sees none here, so there is nothing to measure\n"


@pytest.mark.exhaustive
def test_what_it_measures() -> None:
    printed = benchmark("--device", "cpu", "--base", "asset:base", "--steps", "3", "--batch-size", "2")
    zk0, bare, ratio = map(float, re.search(r"\| steps/s \| (\S+) \| (\S+) \| (\S+) \|", printed).groups())
    assert ratio == pytest.approx(zk0 / bare, rel=0.05)
    assert "4 fits in 2 rounds" in printed
    exchanged, update = (float(re.search(rf"{text}\D*([\d.]+) ", printed)[1]) for text in ("MiB", "update has"))
    assert exchanged == pytest.approx(8 * update, rel=0.05)
