"""The tutorial, as a new user follows it: from an empty folder, by its own commands alone."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.service import ROOT, CommandLine

TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", TUTORIAL, flags=re.DOTALL) for line in block.strip().splitlines()
]


def test_the_tutorial_has_the_whole_way() -> None:
    words = [" ".join(shlex.split(line)[:2]) if line.startswith("zk0") else line.split()[0] for line in COMMANDS]
    way = ("record", "record", "init", "doctor", "check-data", "run", "status", "report", "export")
    assert words == [*(f"zk0 {name}" for name in way), "lerobot-eval"]


@pytest.mark.slow
@pytest.mark.exhaustive  # minutes: it records, trains and acts; each command has tests of its own
def test_every_command_of_the_tutorial_works_in_an_empty_folder(tmp_path: Path) -> None:
    environment = CommandLine.apart(tmp_path) | {"HF_HUB_OFFLINE": "1"}
    programs = Path(sys.executable).parent
    folder = tmp_path / "empty"
    folder.mkdir()
    said = {}
    for line in COMMANDS:
        program, *words = shlex.split(line)
        done = subprocess.run(
            [programs / program, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        said[line] = done.stdout + done.stderr
    assert (folder / "outputs/first/report.html").is_file()
    assert any("lerobot-rollout" in text for text in said.values())
    assert any("pc_success" in text for text in said.values())
