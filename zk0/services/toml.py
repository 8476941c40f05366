"""Small TOML files of our own, read as the run's config is: every fault named with its key, value and remedy."""

import json
from pathlib import Path

from pydantic import ValidationError

from zk0.config.faults import explain
from zk0.config.load import read_toml
from zk0.config.part import Part
from zk0.errors import ConfigError
from zk0.files.atomic import exists


def read_part[Kind: Part](kind: type[Kind], path: Path, remedy: str) -> Kind:
    """Read a file into a part.

    Args:
        kind: the part.
        path: the file.
        remedy: what makes one where it is missing.

    Raises:
        ConfigError: it cannot be read, is no TOML, or a key is wrong; every fault is named.
    """
    if not exists(path):
        raise ConfigError(f"{path}: no such file; {remedy}")
    try:
        return kind.model_validate(read_toml(path))
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path}: {explain(item, kind)}" for item in error.errors())) from error


def entry(kind: type[Part], name: str, value: object = None) -> list[str]:
    """Lines for a key in a new file: its text as a comment, and its value; commented out where there is none.

    Args:
        kind: the part that it is of.
        name: of the key.
        value: a text, number, truth or list of texts.
    """
    field = kind.model_fields[name]
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    text = json.dumps(default if value is None else value, ensure_ascii=False)
    comment = f"# {' '.join((field.description or '').split())}"
    if value is not None:
        return [comment, f"{name} = {text}", ""]
    return [comment, f"# {name} =" + ("" if default is None else f" {text}"), ""]
