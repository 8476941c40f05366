"""What runs on GitHub is what runs here."""

import shlex
from pathlib import Path

import click
import typer
import yaml  # type: ignore[import-untyped]

from zk0.cli import app

ROOT = Path(__file__).parents[2]


def test_the_workflow_runs_what_must_hold_and_commands_that_there_are() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    lines = [
        line.strip() for job in jobs.values() for step in job["steps"] for line in step.get("run", "").splitlines()
    ]
    assert "bash .ci/run" in lines
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group)
    ours = [shlex.split(line)[1:] for line in lines if line.startswith(".venv/bin/zk0 ")]
    assert [words[0] for words in ours if not words[0].startswith("-")] == ["doctor", "run", "report"]
    assert {words[0] for words in ours} <= {*group.commands, "--version"}


def test_an_issue_asks_for_the_doctor() -> None:
    for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"):
        assert yaml.safe_load(path.read_text()), path
    fault = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE/fault.yml").read_text())
    [asked] = [item for item in fault["body"] if item.get("id") == "doctor"]
    assert asked["attributes"]["label"] == "zk0 doctor --json"
