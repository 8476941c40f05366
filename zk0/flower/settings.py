"""Flower's run config as a start of zk0: every config key flat, with dots, beside four that are of the start itself.

An empty text stands for a key that is left out: Flower takes no key by `--run-config` that `pyproject.toml` does not
list, and lists no value that is none.
"""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from zk0.config import RunConfig, load_config
from zk0.config.load import read_toml
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


def parsed(words: list[str]) -> dict[str, Value]:
    """What `--run-config` makes of its text, with every key that is given, known or not.

    Args:
        words: one text of key=value items, or one TOML file.

    Raises:
        ConfigError: it is neither.
    """
    if len(words) == 1 and words[0].endswith(".toml"):
        return dict(_leaves(read_toml(Path(words[0]))))
    text = " ".join(words)
    found: dict[str, Value] = {}
    for item in _divided("RUN_CONFIG", text):
        key, is_, value = item.partition("=")
        if not is_ or not key:
            raise ConfigError(f"RUN_CONFIG = {text[:120]!r}: {item[:120]!r} is not of the form key=value")
        found[key] = {"true": True, "false": False}.get(value, value)
    return found


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
    return _divided("set", text)


def _divided(name: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"{name} = {text[:120]!r}: {error}; give key=value items with blanks between them") from error


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A file's values by their keys with dots, as Flower flattens it."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
