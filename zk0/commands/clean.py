"""`zk0 clean`: what old runs and caches leave on the disk."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from zk0.commands.common import JsonOption, OutputsOption, console, echo


def clean(
    runs: Annotated[
        list[str] | None, typer.Option("--run", help="A run to remove whole, finished or not; repeatable.")
    ] = None,
    keep: Annotated[int | None, typer.Option(help="Remove all finished runs but so many of the newest.", min=0)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would go, and remove nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    outputs: OutputsOption = Path("outputs"),
    as_json: JsonOption = False,
) -> None:
    """Remove finished runs' rounds that were set aside as damaged, zk0's cache, and the runs that you name; asks first.

    Without --run or --keep no run goes. A run that somebody advances is never removed, nor an unfinished one that is
    not named. What was fetched from the hub is the hub's: `hf cache`. With --json nothing is asked, and nothing removed
    without --yes.
    """
    from zk0.housekeeping.leftovers import find, remove

    found = find(outputs, runs or [], keep)
    if as_json:
        console.print_json(data=[{"what": item.what, "path": str(item.path), "bytes": item.size} for item in found])
        for item in found if yes and not dry_run else ():
            remove(item)
        return
    if not found:
        echo("nothing to remove")
        return
    table = Table("what", "where", "MiB", box=None, header_style="bold")
    for item in found:
        table.add_row(item.what, Text(str(item.path)), f"{item.size / 2**20:,.1f}")
    console.print(table)
    if dry_run:
        return
    if not yes:
        typer.confirm(f"remove these {len(found)}, {sum(item.size for item in found) / 2**20:,.1f} MiB?", abort=True)
    for item in found:
        remove(item)
    echo(f"removed: {len(found)}")
