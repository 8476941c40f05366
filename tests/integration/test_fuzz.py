"""A small instance of the fuzzer, over a real run."""

import re
import subprocess
import sys

import pytest

from benchmarks.service import ROOT, CommandLine

pytestmark = pytest.mark.slow


def test_whatever_becomes_of_a_file_nothing_is_taken_for_what_it_is_not(zk0: CommandLine, reference: str) -> None:
    assert "final policy" in reference
    command = [sys.executable, "-m", "benchmarks.fuzz", "--mutations", "80", "--draw", "0.1", "--run"]
    done = subprocess.run(
        [*command, str(zk0.outputs / "reference")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
    told = dict(re.findall(r"^(.+): (\d+)$", done.stdout, flags=re.MULTILINE))
    for door in ("start", "show", "checkpoint", "cache", "go on"):
        assert int(told[f"{door}: whole"]) > 0
