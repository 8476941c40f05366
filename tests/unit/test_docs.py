"""The documents agree with the code."""

import re
import tomllib
from pathlib import Path

import click
import pytest
import typer

from scripts import cli_reference, config_reference, release_notes
from zk0 import errors
from zk0.cli import INTERRUPTED, app
from zk0.config import load_config, validate_config

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_config_reference_is_up_to_date():
    assert (ROOT / "docs" / "config.md").read_text(encoding="utf-8") == config_reference.render(), (
        "run `uv run python scripts/config_reference.py`"
    )


def test_the_reference_of_the_command_line_is_up_to_date():
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == cli_reference.render(), (
        "run `uv run python scripts/cli_reference.py`"
    )


COMMANDS = [path for path in PAGES if path.name != "troubleshooting.md"]  # whose texts in `` are messages


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_command_that_is_named_is_there(path):
    """Of the options only those are held that stand beside their command."""
    command = typer.main.get_command(app)
    assert isinstance(command, click.Group)
    for name, rest in re.findall(r"`(?:uv run )?zk0 ([a-z][\w-]*)([^`\n]*)`", path.read_text(encoding="utf-8")):
        assert name in command.commands, name
        one = command.commands[name]
        if not isinstance(one, click.Group) and not one.hidden:
            known = {option for parameter in one.params for option in parameter.opts}
            assert set(re.findall(r"(?<!\S)--[a-z][\w-]*", rest)) <= known | {"--help", "--quiet"}, (name, rest)


def test_every_exit_code_is_named():
    codes = {
        error.exit_code for error in vars(errors).values() if isinstance(error, type) and hasattr(error, "exit_code")
    }
    sentence = re.search(r"Exit codes:(.*?);", cli_reference.INTRODUCTION, flags=re.DOTALL)[1]
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


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_to_files_lead_somewhere(path):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


def test_the_site_has_every_page():
    text = (ROOT / "mkdocs.yml").read_text()
    assert set(re.findall(r": (\w+\.md)$", text, flags=re.MULTILINE)) == {path.name for path in PAGES[2:]}


def test_the_changelog_has_this_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert "### Added" in release_notes.notes((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version)


def test_the_notes_of_a_release_are_its_part_of_the_changelog():
    changelog = "# Changelog\n\n## [Unreleased]\n\n- new\n\n## [0.2.0] - today\n\n- a\n\n## [0.1.0]\n\n- b\n"
    assert release_notes.notes(changelog, "0.2.0") == "- a\n"
    assert release_notes.notes(changelog, "0.1.0") == "- b\n"
