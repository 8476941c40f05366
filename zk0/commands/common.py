"""What commands share: where they print, how a run is found, options that several have."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup, TyperOption

if TYPE_CHECKING:
    from zk0.runs.store import RunStore

console = Console()
"""For what was asked for: tables, JSON, paths."""
notes = Console()
"""For what a command is at, which `--quiet` leaves out."""

ConfigArgument = Annotated[str | None, typer.Argument(help="A TOML file, or a shipped config: sim (default), so100.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override one key: training.steps=20.")]
OutputsOption = Annotated[Path, typer.Option("--outputs", help="The folder of the runs.")]
StrictOption = Annotated[bool, typer.Option("--strict", help="A warning of the checks is an error, too.")]
JsonOption = Annotated[bool, typer.Option("--json", help="For programs.")]
NameArgument = Annotated[str | None, typer.Argument(help="The run; the newest when left out.")]


def open_run(outputs: Path, name: str | None) -> "RunStore":
    """A run by its name; the newest when that is left out.

    Raises:
        RunNameError: there is none.
    """
    from zk0.errors import RunNameError
    from zk0.runs.store import RunStore

    if name is not None:
        return RunStore.open(outputs, name)
    runs = RunStore.list_runs(outputs)
    if not runs:
        raise RunNameError(f"no run in {outputs.absolute()}; start one by `zk0 run`, or name the folder by --outputs")
    return runs[0]


def hush(_context: object, _parameter: object, wanted: bool) -> None:
    """Leave out what a command is at; what it was asked for, and errors, stay."""
    notes.quiet = wanted or notes.quiet


def print_version(wanted: bool) -> None:
    """Print the version, and end."""
    if wanted:
        from importlib.metadata import version

        console.print(f"zk0 {version('zk0')}", highlight=False)
        raise typer.Exit


class Quietly(TyperGroup):
    """A group whose commands each have `--quiet`."""

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """The command, with the option."""
        command = super().get_command(context, name)
        if command is not None and "--quiet" not in {name for item in command.params for name in item.opts}:
            words = "Print the result and errors, nothing on the way."
            command.params.append(
                TyperOption(param_decls=["--quiet", "-q"], is_flag=True, expose_value=False, callback=hush, help=words)
            )
        return command


def echo(*parts: str | tuple[str, str], to: Console = console) -> None:
    """Print as it is: a path may hold what rich takes for markup, and must not be broken into lines."""
    to.print(Text.assemble(*parts), soft_wrap=True)
