"""`zk0 doctor`: whether this machine has what zk0 needs."""

from pathlib import Path

from rich.table import Table
from rich.text import Text

from zk0.commands.common import JsonOption, OutputsOption, console

COLOURS = {"ok": "green", "warning": "yellow", "error": "bold red"}


def doctor(outputs: OutputsOption = Path("outputs"), as_json: JsonOption = False) -> None:
    """Look at Python, torch, GPU, engine, disk, hub, proxy, port, versions and clock, each with a remedy.

    Nothing is changed. Exit code 2 where something must be mended before a run can begin. `--json` goes well with a
    report of a fault: it has no token and no password.
    """
    from zk0.doctor.checks import examine
    from zk0.errors import BadInputError

    found = examine(outputs)
    if as_json:
        console.print_json(data=[item._asdict() for item in found])
    else:
        table = Table("check", "verdict", "seen", "remedy", box=None, header_style="bold")
        for item in found:
            table.add_row(item.check, Text(item.verdict, COLOURS[item.verdict]), Text(item.seen), Text(item.remedy))
        console.print(table)
    if wrong := [item.check for item in found if item.verdict == "error"]:
        raise BadInputError(f"a run cannot begin so: see {', '.join(dict.fromkeys(wrong))} above")
