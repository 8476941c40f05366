"""From TOML files and `--set key=value` to a RunConfig, or to a ConfigError that names every fault."""

import codecs
import io
import os
import re
import stat
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from zk0.config.faults import explain, shown
from zk0.config.part import NULL
from zk0.config.paths import ASSET_PREFIX, absolute_path, path_fault, resolve_path
from zk0.config.run import RunConfig
from zk0.errors import ConfigError

MOST_BYTES = 4 * 2**20
"""No config is larger: what is larger is another file."""
DEEPEST = 32
"""Levels of tables and lists in a whole config."""
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_MOST_DIGITS = re.compile(r"(?<!\w)[+-]?[\d_]{4000,}")
_INDEX = re.compile(r"[0-9]{1,9}")
_SECOND_KEY = re.compile(r"[\s,;]+([a-z_]\w*)(?:\.[\w-]+)*\s*=")


def load_config(source: Mapping[str, Any] | str | Path | None = None, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a TOML file, apply `--set` overrides and validate.

    Args:
        source: a TOML file, the name of a shipped config (`sim`, `so100`), or None for `sim`; or what a TOML file would
            hold, whose paths are relative to the working directory.
        overrides: `a.b=value` items; the value is read as TOML where it is TOML, else as a string.

    Raises:
        ConfigError: names every bad key, its value and what to do.
    """
    if isinstance(source, Mapping):
        data, folder = _copied(source), absolute_path("")
    else:
        path = _config_file(source)
        data, folder = _copied(read_toml(path), str(path)), absolute_path(path.parent)
    _resolve_relative(data, folder)
    for item in overrides:
        _apply_override(data, item)
    return validate_config(_copied(data))


def validate_config(data: Mapping[str, Any]) -> RunConfig:
    """Build a RunConfig; every fault is named in one ConfigError."""
    try:
        return RunConfig.model_validate(dict(data))
    except ValidationError as error:
        raise ConfigError("\n".join(explain(item) for item in error.errors())) from error


def shipped_configs() -> dict[str, Path]:
    """Name -> file of the configs that come with zk0."""
    return {path.stem: path for path in sorted(resolve_path("asset:configs").glob("*.toml"))}


def _config_file(source: str | Path | None) -> Path:
    shipped = shipped_configs()
    if source is None:
        return shipped["sim"]
    known = shipped.get(str(source))
    try:
        mode = Path(source).stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        if known is not None:
            return known
        names = ", ".join(shipped)
        raise _no_file(source, f"no such file; give a TOML file or a shipped config: {names}") from error
    except (OSError, ValueError) as error:
        why = (isinstance(error, OSError) and error.strerror) or error
        raise _no_file(source, f"cannot be read ({why}); give the path of a TOML file") from error
    if stat.S_ISREG(mode):
        return Path(source)
    if known is not None:
        return known
    if stat.S_ISDIR(mode):
        raise _no_file(source, "is a folder; give the TOML file in it, or go on with a run by `zk0 resume`")
    raise _no_file(source, "is no plain file but a pipe, socket or device; write the config to a file")


def _no_file(source: str | Path, why: str) -> ConfigError:
    return ConfigError(f"config {str(source)[:300]!r}: {why}")


def read_toml(path: Path) -> dict[str, Any]:
    """What a TOML file holds.

    Raises:
        ConfigError: it cannot be read, or is no TOML; names the place.
    """
    text = _text(path)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}; correct the file at that place") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: tables or lists are nested more than {DEEPEST} deep; correct the file") from error
    except ValueError as error:  # Python reads no number of more than 4300 digits
        long = _MOST_DIGITS.search(text)
        where = f" in line {text.count(chr(10), 0, long.start()) + 1}" if long else ""
        raise ConfigError(f"{path}: a number{where} has thousands of digits; give a smaller one") from error


def _text(path: Path) -> str:
    """The text of a file that any editor may have saved, with the line ends that TOML knows."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error}); give a readable TOML file") from error
    if len(content) > MOST_BYTES:
        raise ConfigError(f"{path}: is larger than {MOST_BYTES >> 20} MiB and no config; give a TOML file")
    if content.startswith(UTF_16) or b"\0" in content:
        raise ConfigError(
            f"{path}: is UTF-16 (`Unicode` in Windows' Notepad) or no text at all; save it as UTF-8, which TOML must be"
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = content.count(b"\n", 0, error.start) + 1, content[error.start]
        raise ConfigError(f"{path}: is not UTF-8 (byte 0x{byte:02x} in line {line}); save it as UTF-8") from error
    return io.StringIO(text, newline=None).read()


def _copied(value: Mapping[str, Any], where: str = "config") -> dict[str, Any]:
    """A copy whose tables and lists are dicts and lists of its own.

    Raises:
        ConfigError: nested too deeply, as what holds itself is; or a key is no text.
    """

    def copied(item: Any, depth: int) -> Any:
        if not isinstance(item, Mapping | list | tuple):
            return item
        if depth > DEEPEST:
            raise ConfigError(f"{where}: tables or lists are nested more than {DEEPEST} deep; make it flatter")
        if not isinstance(item, Mapping):
            return [copied(inner, depth + 1) for inner in item]
        if odd := [key for key in item if not isinstance(key, str)]:
            raise ConfigError(f"{where}: {shown(odd[0])} is no text, and cannot be a key; put it in quotes")
        return {key: copied(inner, depth + 1) for key, inner in item.items()}

    return dict(copied(value, 1))


def _resolve_relative(data: dict[str, Any], folder: Path) -> None:
    """Make the relative `root`s and a relative `policy.path` absolute: they are meant relative to the config file."""
    evaluation = data.get("evaluation")
    groups = [data.get("clients"), evaluation.get("datasets") if isinstance(evaluation, dict) else None]
    holders = [(item, "root") for group in groups if isinstance(group, list) for item in group]
    holders.append((data.get("policy"), "path"))
    for holder, key in holders:
        if isinstance(holder, dict) and key in holder:
            holder[key] = _absolute(key, holder[key], folder)


def _absolute(key: str, value: Any, folder: Path) -> Any:
    """Turn the value of a `root` or of `policy.path` into an absolute path, if it is a relative one."""
    if not isinstance(value, str) or value == NULL or value.startswith((ASSET_PREFIX, "~")) or path_fault(value):
        return value
    local = folder / value
    return str(local) if key == "root" or os.path.lexists(local) else value  # a policy path that is no folder: a hub id


def _apply_override(data: dict[str, Any], item: str) -> None:
    """Set one dotted key; list items are named by their index: `clients.0.root=...`."""
    key, separator, text = item.partition("=")
    *parents, last = (part.strip() for part in key.split("."))
    if not separator or not all([*parents, last]):
        raise _no_override(item, "not of the form key=value, such as --set training.steps=20")
    value = _value(text, item)
    if last == "root" or (parents, last) == (["policy"], "path"):
        value = _absolute(last, value, absolute_path(""))  # who types it means it from where they are
    node: Any = data
    for part in parents:
        node = _child(node, part, item)
    if isinstance(node, list):
        node[_index(node, last, item)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise _no_override(item, f"{shown(parents[-1])} is a value, not a group of keys; leave {shown(last)} out")


def _value(text: str, item: str) -> Any:
    """What stands after the `=`: TOML, or a bare text."""
    try:
        found = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError as error:
        second = _SECOND_KEY.search(text)
        if "\n" in text or (second and second[1] in RunConfig.model_fields):
            why = "sets more than one key; give each a --set of its own, or put a text in quotes"
            raise _no_override(item, why) from error
        return text
    except RecursionError as error:
        raise _no_override(item, f"is nested more than {DEEPEST} deep; make it flatter") from error
    except ValueError as error:
        raise _no_override(item, "a number in it has thousands of digits; give a smaller one") from error
    if len(found) > 1:
        raise _no_override(item, "sets more than one key; give each a --set of its own")
    return found["value"]


def _child(node: Any, part: str, item: str) -> Any:
    if isinstance(node, dict):
        return node.setdefault(part, {})
    if isinstance(node, list):
        return node[_index(node, part, item)]
    raise _no_override(item, f"there is no group {shown(part)}; look at the config's spelling")


def _index(node: list[Any], part: str, item: str) -> int:
    if not _INDEX.fullmatch(part) or int(part) >= len(node):
        raise _no_override(item, f"{shown(part)} is not an index below {len(node)}; count from 0")
    return int(part)


def _no_override(item: str, why: str) -> ConfigError:
    return ConfigError(f"--set {shown(item)}: {why}")
