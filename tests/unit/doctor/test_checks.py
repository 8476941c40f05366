"""The doctor, on this machine and on what is wrong with others."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from zk0.cli import app
from zk0.commands import doctor
from zk0.doctor import checks
from zk0.errors import BadInputError

SECRET = "hf_canary0123456789"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> None:
        raise httpx.ConnectError("no route")

    monkeypatch.setattr(httpx, "head", away)


def test_this_machine_is_fit(tmp_path: Path, offline: None) -> None:
    found = {item.check: item for item in checks.examine(tmp_path / "outputs")}
    assert [item for item in found.values() if item.verdict == "error"] == []
    assert {
        "python",
        "packages",
        "torch",
        "GPU",
        "simulator",
        "engine",
        "disk",
        "memory",
        "hub",
        "port",
    } <= found.keys()
    assert found["hub"].verdict == "warning"
    assert all(item.remedy for item in found.values() if item.verdict != "ok")


def test_no_token_and_no_password_is_told(
    tmp_path: Path, offline: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("HTTPS_PROXY", f"http://anna:{SECRET}@proxy.example:3128")
    monkeypatch.setattr(doctor, "console", Console())
    app(["doctor", "--json", "--outputs", str(tmp_path)], standalone_mode=False)
    told = capsys.readouterr().out
    seen = {item["check"]: item["seen"] for item in json.loads(told)}
    assert seen["hub"].endswith("a token is set")
    assert "***@proxy.example:3128" in seen["proxy"]
    assert SECRET not in told


def test_what_must_be_mended_ends_with_exit_code_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "console", Console(quiet=True))
    monkeypatch.setattr(checks, "examine", lambda _: [checks.Check("disk", "error", "full", "free some")])
    with pytest.raises(BadInputError, match="a run cannot begin so: see disk above"):
        app(["doctor", "--outputs", str(tmp_path)], standalone_mode=False)


@pytest.mark.parametrize(("off_s", "verdict"), [(3, "ok"), (-3600, "error"), (3600, "error")])
def test_a_clock_that_is_off_is_told(off_s: int, verdict: str) -> None:
    told = format_datetime(datetime.now(UTC) - timedelta(seconds=off_s))
    assert checks._clock(told).verdict == verdict


def test_a_package_in_another_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "requires", lambda _: ["rich>=99", "no-such-package>=1", "mujoco; extra == 'sim'"])
    [found] = checks._packages()
    assert found.verdict == "error"
    assert "is not >=99; no-such-package is missing" in found.seen
    assert "mujoco" not in found.seen
