"""`zk0 report`: a run as one HTML file."""

from pathlib import Path
from typing import Annotated

import typer

from zk0.commands.common import NameArgument, OutputsOption, echo, open_run


def report(
    name: NameArgument = None,
    out: Annotated[
        Path | None, typer.Option(help="The file to write; report.html in the run directory when left out.")
    ] = None,
    outputs: OutputsOption = Path("outputs"),
) -> None:
    """Write a run as one HTML file: result, curves, joints, videos, memory, and all that befell it.

    It opens without a network, on a phone and in print; the run may be finished, under way or dead.
    """
    from zk0.config.paths import absolute_path
    from zk0.page.write import write_page

    echo(str(write_page(open_run(outputs, name), None if out is None else absolute_path(out))))
