"""What a user named reaches the terminal as it is, whatever rich takes for markup."""

import io
import sys
from collections.abc import Callable

import pytest
from rich.console import Console

from tests.unit.runs.made import make_config
from zk0 import cli
from zk0.commands.common import echo
from zk0.data.findings import DataFinding, DataReport
from zk0.errors import ConfigError
from zk0.report.findings import findings_table
from zk0.report.terminal import closing_view, status_view
from zk0.runs.store import RunStore

ODD = "[red]a[/] [x] :cat: [/b] ["


def printed(say: Callable[[Console], None]) -> str:
    output = io.StringIO()
    say(Console(file=output, width=300))
    return output.getvalue()


def test_lines_of_the_command_line() -> None:
    output = io.StringIO()
    echo("written: ", (ODD, "bold"), " " + "/very/long" * 20, to=Console(file=output, width=20))
    assert output.getvalue() == f"written: {ODD} {'/very/long' * 20}\n"


def test_errors_of_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(**_: object) -> None:
        raise ConfigError(f"{ODD}: no")

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr(cli, "claim_our_names", lambda: None)  # is for a process of its own
    monkeypatch.setattr(sys, "argv", ["zk0"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {ODD}: no\n"


def test_tables(tmp_path_factory: pytest.TempPathFactory) -> None:
    finding = DataFinding(dataset="mine", check="files", verdict="error", seen=f"/{ODD}/x", remedy=ODD)
    text = printed(lambda console: console.print(findings_table(DataReport(findings=[finding], frames={}))))
    assert text.count(ODD) == 2
    folder = tmp_path_factory.mktemp("odd") / "[red]a[x]"
    RunStore.create_or_open(make_config(folder.parent), "plain").folder.rename(folder)
    assert folder.name in printed(lambda console: console.print(status_view(folder)))
    assert folder.name in printed(lambda console: console.print(closing_view(folder)))
