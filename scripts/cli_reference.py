"""Write docs/cli.md, the reference of every command, by typer's own generator.

`python scripts/cli_reference.py` writes it; `tests/unit/test_docs.py` holds it up to date.
"""

import html
import re
from pathlib import Path

import click
import typer
from typer.cli import get_docs_for_click

from zk0.cli import app

TARGET = Path(__file__).parent.parent / "docs" / "cli.md"
INTRODUCTION = """# The command line

Made by `scripts/cli_reference.py` from the commands' own help; change it there. Put `uv run` before a command, or
activate `.venv`. Colours are left out where NO_COLOR is set, or the output is no terminal.

Exit codes: 0 done, 1 an unforeseen error, 2 bad input, 3 quorum lost, what a round gave is not finite, or some client
gave no update in the whole run, 4 storage, 130 interrupted; after 3, 4 and 130 the same command goes on once the cause
is gone.
"""


def render() -> str:
    """The whole document."""
    command = typer.main.get_command(app)
    assert isinstance(command, click.Group)
    hidden = [name for name, item in command.commands.items() if item.hidden]
    for name in hidden:
        del command.commands[name]
    with typer.Context(command, info_name="zk0") as context:
        text = html.unescape(get_docs_for_click(obj=command, ctx=context, name="zk0"))
    return (
        INTRODUCTION
        + re.sub(r"(?s)Examples:\n\n(.*?)(?=\n#|\Z)", _examples, text.partition("# `zk0`")[2]).rstrip()
        + "\n"
    )


def _examples(found: re.Match[str]) -> str:
    lines = "\n".join(line for line in found[1].splitlines() if line)
    return f"**Examples**:\n\n```console\n{lines}\n```\n"


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
    print(f"written: {TARGET}")
