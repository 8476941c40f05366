"""A small, seeded instance of the chaos command: real runs, real kills."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.exhaustive
@pytest.mark.timeout(1500)  # two minutes on two idle cores
@pytest.mark.slow  # seed 205: a kill of each part but the worker, in five phases
def test_killed_runs_end_as_undisturbed_ones(tmp_path: Path) -> None:
    arguments = [
        "--kills",
        "5",
        "--commands",
        "0",
        "--runs",
        "1",
        "--seed",
        "205",
        "--folder",
        str(tmp_path),
        "--out",
        "found.md",
    ]
    with (tmp_path / "output.txt").open("w") as output:
        command = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.chaos", *arguments[:-1], str(tmp_path / arguments[-1])],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        try:
            code = command.wait(1400)
        finally:
            if command.poll() is None:
                command.send_signal(signal.SIGTERM)
                command.wait(30)
    told = (tmp_path / "output.txt").read_text()
    assert code == 0, told
    runs = [json.loads(line) for line in (tmp_path / "chaos.jsonl").read_text().splitlines()]
    kills = [kill for run in runs for kill in run["kills"]]
    assert len(kills) == 5
    assert [run["wrong"] for run in runs] == [[] for _ in runs]
    assert "| all |" in (tmp_path / "found.md").read_text()
    assert not [entry for entry in Path("/proc").iterdir() if str(tmp_path / "prefect") in _environment(entry)]


def _environment(process: Path) -> str:
    try:
        return os.fsdecode((process / "environ").read_bytes())
    except OSError:
        return ""
