"""Small instances of the commands in benchmarks/, so that they stay true between the days on which all is run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def benchmark(*arguments: str) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "ZK0_"))}
    process = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def test_damaged_files() -> None:
    assert "4 of 4 as they must be" in benchmark("benchmarks.damage", "--sample", "4", "--seed", "1")


def test_a_server_that_is_away() -> None:
    assert "server away for 15 s" in benchmark("benchmarks.outage", "--seconds", "15")
