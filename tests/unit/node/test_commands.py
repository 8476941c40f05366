"""`zk0 node ... --json`: what the tables hold, for programs, with the same exit code."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.service import free_port
from zk0.cli import app
from zk0.data.findings import DataFinding, DataReport
from zk0.errors import BadInputError, DatasetError
from zk0.node import check, dry_run
from zk0.node.dry_run import DryRun
from zk0.preflight.records import Leaf


@pytest.fixture
def home(tmp_path: Path) -> Path:
    words = ["--client", "kitchen", "--link", f"127.0.0.1:{free_port()}", "--root", str(tmp_path / "away")]
    done = CliRunner().invoke(app, ["node", "key", str(tmp_path / "home"), *words])
    assert done.exit_code == 0, done.output
    return tmp_path / "home"


def checked(home: Path, *words: str) -> tuple[dict[str, Any], str]:
    done = CliRunner().invoke(app, ["node", "check", str(home), "--json", *words])
    assert isinstance(done.exception, BadInputError), done.output
    return json.loads(done.stdout), str(done.exception)


def test_the_checks_of_a_node_are_json_with_the_error_beside_it(home: Path) -> None:
    found, said = checked(home, "--no-recordings")
    verdicts = {item["check"]: item["verdict"] for item in found["checks"]}
    assert (verdicts["key"], verdicts["CA"], verdicts["versions"]) == ("ok", "error", "ok")
    assert "recordings" not in found
    assert "CA" in said


def test_what_check_data_finds_is_there_too(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = DataFinding(
        dataset="kitchen", check="frames", verdict="error", seen="1107 of 1108", remedy="record again"
    )

    def examined(*_: object, **__: object) -> DataReport:
        return DataReport(findings=[finding], frames={})

    monkeypatch.setattr(check, "examined", examined)  # it takes processes with torch; tests/integration has them
    found, said = checked(home)
    assert found["recordings"] == [finding.model_dump()]
    assert "recordings: frames" in said

    def fails(*_: object, **__: object) -> DataReport:
        raise DatasetError("no such folder")

    monkeypatch.setattr(check, "examined", fails)
    found, said = checked(home)
    assert found["recordings"] == [{"check": "recordings", "verdict": "error", "seen": "no such folder"}]


def test_what_would_leave_is_json(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leaves = [Leaf(when="before", what="frames"), Leaf(when="a round", what="lora_A", shape="2x3", size=24)]
    found = DryRun(leaves, ["rules.num_rounds = 1"], "ab12")
    monkeypatch.setattr(dry_run, "dry_run", lambda *_: found)  # it takes a process with torch
    said = json.loads(CliRunner().invoke(app, ["node", "dry-run", str(home), "--json"]).stdout)
    assert said["round_bytes"] == 24
    assert said["leaves"][1] == {"when": "a round", "what": "lora_A", "shape": "2x3", "size": 24}
    assert (said["config_digest"], said["refusals"]) == ("ab12", ["rules.num_rounds = 1"])
