"""A line on the terminal that says what the checks before a run are at; nothing where there is no terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text


@contextmanager
def checking(console: Console) -> Iterator[Callable[[str], None]]:
    """Show what the function that it gives is told, until the end."""
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status(Text("checking ...")) as status:
        yield lambda line: status.update(Text(line, no_wrap=True, overflow="ellipsis"))
