"""The documents agree with the code."""

import re
import tomllib
from pathlib import Path

import click
import pytest
import typer

from scripts import config_reference
from zk0 import errors
from zk0.cli import INTERRUPTED, app
from zk0.config import load_config, validate_config

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_config_reference_is_up_to_date():
    assert (ROOT / "docs" / "config.md").read_text(encoding="utf-8") == config_reference.render(), (
        "run `uv run python scripts/config_reference.py`"
    )


def test_the_readme_names_every_command_and_option_as_it_is():
    command = typer.main.get_command(app)
    assert isinstance(command, click.Group)
    commands = command.commands
    rows = dict(re.findall(r"^\| `zk0 ([\w-]+)(.*?)` \|", README, flags=re.MULTILINE))
    assert set(rows) == {name for name, command in commands.items() if not command.hidden}
    for name, usage in rows.items():
        known = {option for parameter in commands[name].params for option in parameter.opts}
        assert set(re.findall(r"--[\w-]+", usage)) <= known
    for file in ("README.md", "CONTRIBUTING.md", "docs/config.md"):
        assert set(re.findall(r"`(?:uv run )?zk0 ([\w-]+)", (ROOT / file).read_text(encoding="utf-8"))) <= set(commands)


def test_the_readme_names_every_exit_code():
    codes = {
        error.exit_code for error in vars(errors).values() if isinstance(error, type) and hasattr(error, "exit_code")
    }
    sentence = re.search(r"Exit codes:(.*?);", README, flags=re.DOTALL)[1]
    assert {int(code) for code in re.findall(r"\d+", sentence)} == {0, INTERRUPTED, *codes}


def test_the_readme_config_loads(tmp_path):
    example = re.search(r"```toml\n(.*?)```", README, flags=re.DOTALL)[1]
    (tmp_path / "my.toml").write_text(example)
    assert [client.name for client in load_config(tmp_path / "my.toml").clients] == ["kitchen", "workshop"]


def test_the_example_of_success_in_closed_loop_loads():
    text = (ROOT / "docs" / "learning.md").read_text(encoding="utf-8")
    evaluation = tomllib.loads(re.search(r"```toml\n(\[evaluation\].*?)```", text, flags=re.DOTALL)[1])["evaluation"]
    run = {"clients": [{"name": "a", "repo_id": "o/a"}], "policy": {"path": "o/p"}, "evaluation": evaluation}
    assert validate_config(run).evaluation.environments[0].options == {"setting": "kitchen"}


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md"])
def test_links_to_files_lead_somewhere(file):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / file).read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target


def test_the_changelog_has_this_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()
