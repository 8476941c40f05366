"""From TOML files and `--set key=value` to a RunConfig, or to a ConfigError that names every fault."""

import tomllib
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from zk0.config.faults import explain
from zk0.config.part import ASSET_PREFIX, NULL, resolve_path
from zk0.config.run import RunConfig
from zk0.errors import ConfigError


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
        data, folder = deepcopy(dict(source)), Path.cwd()
    else:
        path = _config_file(source)
        data, folder = _read(path), path.parent
    _resolve_relative(data, folder)
    for item in overrides:
        _apply_override(data, item)
    return validate_config(data)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give a readable TOML file") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}; correct the file at that place") from error


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
    if str(source) in shipped and not Path(source).is_file():
        return shipped[str(source)]
    if Path(source).is_file():
        return Path(source)
    raise ConfigError(
        f"config {str(source)!r}: no such file; give a TOML file or a shipped config: {', '.join(shipped)}"
    )


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
    if not isinstance(value, str) or value == NULL or value.startswith((ASSET_PREFIX, "~")):
        return value
    local = (folder / value).absolute()
    return str(local) if key == "root" or local.exists() else value  # a policy path that is no folder is a hub id


def _apply_override(data: dict[str, Any], item: str) -> None:
    """Set one dotted key; list items are named by their index: `clients.0.root=...`."""
    key, separator, text = item.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {item!r}: not of the form key=value, such as --set training.steps=20")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = key.strip().split(".")
    if last == "root" or (parents, last) == (["policy"], "path"):
        value = _absolute(last, value, Path.cwd())  # who types it means it from where they are
    node: Any = data
    for part in parents:
        node = _child(node, part, item)
    if isinstance(node, list):
        if not last.isdigit() or int(last) >= len(node):
            raise ConfigError(f"--set {item!r}: {last!r} is not an index below {len(node)}")
        node[int(last)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise ConfigError(f"--set {item!r}: {parents[-1]!r} is a value, not a group of keys")


def _child(node: Any, part: str, item: str) -> Any:
    if isinstance(node, dict):
        return node.setdefault(part, {})
    if isinstance(node, list) and part.isdigit() and int(part) < len(node):
        return node[int(part)]
    raise ConfigError(f"--set {item!r}: there is no group {part!r}; look at the config's spelling")
