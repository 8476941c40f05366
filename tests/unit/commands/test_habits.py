"""What a user expects of any command line: version, completion, quiet, JSON, colours, examples, and a quick help."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from tests.unit.runs.made import make_config
from tests.unit.written import Run
from zk0 import cli
from zk0.commands import common
from zk0.commands.examples import EXAMPLES
from zk0.config import load_config
from zk0.data.findings import DataReport
from zk0.errors import ConfigError
from zk0.federation import before_run
from zk0.publish import push
from zk0.runs.store import RunStore
from zk0.runs.versions import package_version

ROOT = Path(__file__).parents[3]


def invoke(*words: str) -> str:
    done = CliRunner().invoke(cli.app, list(words), env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.output


def test_the_version() -> None:
    assert invoke("--version") == f"zk0 {package_version('zk0')}\n"


def test_a_shell_can_complete() -> None:
    environment = {**os.environ, "_ZK0_COMPLETE": "complete_bash", "COMP_WORDS": "zk0 re", "COMP_CWORD": "1"}
    code = "import sys; from zk0.cli import main; sys.argv = ['zk0']; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert {"resume", "report", "record"} <= set(done.stdout.split()), done.stderr


@pytest.mark.parametrize("command", EXAMPLES)
def test_the_help_of_a_command_has_examples_that_parse(command: str) -> None:
    help_text = " ".join(invoke(command, "--help").split())
    for example in EXAMPLES[command].split("\n\n")[1:]:
        assert " ".join(example.split()) in help_text
        [name, *words] = example.split()[1:]
        options = set(re.findall(r"(?<= )--[\w-]+", example))
        assert options <= set(re.findall(r"--[\w-]+", help_text)), example
        assert name == command
        assert words is not None
    assert "--quiet" in help_text


def test_quiet_leaves_out_what_is_on_the_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Run(tmp_path / "demo").commit(0, (8.0, 6.0, 7.0))
    monkeypatch.setattr(common.notes, "quiet", False)
    common.hush(None, None, False)
    assert not common.notes.quiet
    common.hush(None, None, True)
    assert common.notes.quiet


def test_no_colour_where_nobody_wants_any() -> None:
    code = "from zk0.commands.common import console; console.print('[red]x[/red]')"
    environment = {**os.environ, "FORCE_COLOR": "1"}

    def printed(more: dict[str, str]) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment | more, cwd=ROOT, capture_output=True, text=True, check=True
        )
        return done.stdout

    assert printed({}) != "x\n"
    assert printed({"NO_COLOR": "1"}) == "x\n"


def test_the_findings_of_check_data_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {"dataset": "a", "check": "rows", "verdict": "warning", "seen": "seen", "remedy": "remedy"}
    found = DataReport.model_validate({"findings": [words], "frames": {}})
    monkeypatch.setattr(before_run, "check_data", lambda *_, **__: found)
    monkeypatch.setattr(before_run, "check", lambda *_, **__: None)
    monkeypatch.setattr(cli, "console", Console())
    cli.app(["check-data", "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out) == [words]


def test_what_may_go_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked, and without --yes nothing goes."""
    monkeypatch.setenv("ZK0_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "kept").write_text("12345")
    words = ["clean", "--outputs", str(tmp_path), "--json"]
    there = [{"what": "cache of checks", "path": str(tmp_path / "cache"), "bytes": 5}]
    assert json.loads(invoke(*words)) == there
    assert json.loads(invoke(*words, "--yes", "--dry-run")) == there
    assert json.loads(invoke(*words, "--yes")) == there
    assert json.loads(invoke(*words)) == []


def test_what_would_be_pushed_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RunStore.create_or_open(make_config(tmp_path), "demo")
    monkeypatch.setattr(push, "pack", lambda *_, **__: push.Parcel(tmp_path, 3, (("README.md", 7),)))
    told = json.loads(invoke("push", "demo", "me/arm", "--dry-run", "--json", "--outputs", str(tmp_path)))
    assert told == {"round": 3, "files": [{"path": "README.md", "bytes": 7}], "sent": None}


def test_record_without_the_simulator_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "so101_nexus", None)
    for name in [name for name in sys.modules if name.startswith("zk0.sim")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ConfigError, match=r"zk0 record: .*install it with: pip install zk0\[sim\]"):
        cli.app(["record", "kitchen", "--out", str(tmp_path / "a")], standalone_mode=False)
    assert load_config().clients, "all else goes without it"


def test_the_help_is_quick() -> None:
    """None of the heavy libraries is imported for it."""
    heavy = ("torch", "lerobot", "prefect", "flwr", "matplotlib", "jinja2", "httpx")
    code = f"import sys, zk0.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
