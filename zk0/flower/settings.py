"""Flower's run config as a start of zk0: every config key flat, with dots, beside four that are of the start itself.

An empty text stands for a key that is left out: Flower takes no key by `--run-config` that `pyproject.toml` does not
list, and lists no value that is none.
"""

import shlex
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pydantic import BaseModel

from zk0.config import RunConfig, load_config
from zk0.errors import ConfigError
from zk0.federation.start import stem_of

Value = bool | int | float | str
OWN = ("config", "name", "set", "strict")
"""Keys that are of the start: the TOML file or shipped config, the run's name, further keys, and whether warnings of
the checks are errors."""


class Start(NamedTuple):
    """What a `flwr run` asks for."""

    config: RunConfig
    """The wanted config."""
    name: str | None
    """The run's name; None as for `zk0 run`."""
    stem: str
    """What a new name begins with."""
    strict: bool
    """Whether a warning of the checks is an error."""


def wanted(run_config: Mapping[str, Value]) -> Start:
    """The start that a run config means.

    Args:
        run_config: as Flower gives it, flat.

    Raises:
        ConfigError: names every bad key, its value and what to do.
    """
    given = {key: value for key, value in run_config.items() if value != ""}
    strict = given.get("strict", False)
    if not isinstance(strict, bool):
        raise ConfigError(f"strict = {strict!r}: should be true or false")
    source, name = (str(given[key]) if key in given else None for key in ("config", "name"))
    config = load_config(source, [*_flat(given), *_further(str(given.get("set", "")))])
    return Start(config, name, stem_of(source), strict)


def keys(model: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[str]:
    """Every key of a config that Flower can be given: a table's own ones by dots, a list or free table as a whole."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from keys(kind, f"{prefix}{name}.")
        else:
            yield prefix + name


def _flat(given: Mapping[str, Value]) -> Iterator[str]:
    """The keys of zk0's config as `key=value`: numbers as TOML writes them, a text as it stands."""
    for key, value in given.items():
        if key not in OWN:
            yield f"{key}={str(value).lower() if isinstance(value, bool) else str(value)}"


def _further(text: str) -> list[str]:
    """The items of `set`, which are divided as a shell divides them."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"set = {text[:120]!r}: {error}; give key=value items with blanks between them") from error
