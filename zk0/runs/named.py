"""The name of the run that the checks before it are for: over a link, the nodes' owners may allow some names alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_name: ContextVar[str] = ContextVar("zk0_run_name", default="")


@contextmanager
def named(name: str) -> Iterator[None]:
    """Say in this thread which run is checked."""
    token = _name.set(name)
    try:
        yield
    finally:
        _name.reset(token)


def name_of_checked() -> str:
    """The run's name; empty where a config is checked for none."""
    return _name.get()
