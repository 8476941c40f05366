"""Paths as a config gives them: possible ones, and what they lead to on this machine."""

import os
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from zk0.errors import ConfigError

ASSET_PREFIX = "asset:"
"""Marks a path inside the installed package, so that a frozen config does not depend on where zk0 is installed."""
LONGEST_NAME, LONGEST_PATH = 255, 4095
"""Bytes that Linux takes of one name in a path, and of a whole one."""


def odd_text(text: str) -> str | None:
    """What is wrong with a text that no file could hold; None where nothing is."""
    if "\0" in text:
        return "holds a NUL character; remove it"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "holds bytes that are not UTF-8; rename what is named so"
    return None


def path_fault(path: str) -> str | None:
    """Why no file can have a path that a config gives; None where one can."""
    if (fault := odd_text(path)) is not None:
        return f"it {fault}"
    if len(os.fsencode(path)) > LONGEST_PATH:
        return f"it is longer than the {LONGEST_PATH} bytes that a path may have; give a shorter one"
    if long := [name for name in path.split("/") if len(os.fsencode(name)) > LONGEST_NAME]:
        return f"{long[0][:40]!r}... is longer than the {LONGEST_NAME} bytes that a name may have; give a shorter one"
    try:
        Path(path).expanduser()
    except RuntimeError:
        return f"there is no user {path.split('/', maxsplit=1)[0][1:]!r} on this machine; give the path from / on"
    return None


def _possible(path: str) -> str:
    if (fault := path_fault(path)) is not None:
        raise PydanticCustomError("path", "{fault}", {"fault": fault})
    return path


FilePath = Annotated[str, AfterValidator(_possible)]
"""A path that a file can have on this machine, whether there is one or not."""


def resolve_path(path: str) -> Path:
    """Turn a config path into a real one: `asset:x` lies in the installed package, all else is taken as it is.

    Raises:
        ConfigError: no file can have that path.
    """
    if (fault := path_fault(path)) is not None:
        raise ConfigError(f"path {path[:LONGEST_NAME]!r}: {fault}")
    if path.startswith(ASSET_PREFIX):
        return Path(str(files("zk0") / "assets" / path.removeprefix(ASSET_PREFIX)))
    return Path(path).expanduser()


def absolute_path(folder: str | Path) -> Path:
    """A folder that a config names, absolute and with `~` and `asset:` resolved.

    Raises:
        ConfigError: as `resolve_path`; or it is relative to a working directory that is gone.
    """
    try:
        return resolve_path(str(folder)).absolute()
    except FileNotFoundError as error:
        raise ConfigError(
            f"path {str(folder)!r}: the working directory is gone; change to one that is there"
        ) from error


def check_target(key: str, folder: str | Path) -> Path:
    """Refuse a folder that could not be made; nothing is made yet.

    Args:
        key: how the user gave it, for the message.
        folder: the folder, there or not.

    Returns:
        Its absolute path.

    Raises:
        ConfigError: something on the way is no folder, or may not be written.
    """
    target = absolute_path(folder)
    there = next(path for path in (target, *target.parents) if os.path.lexists(path))
    if not there.is_dir():
        raise ConfigError(f"{key} = {str(folder)!r}: {there} is no folder; choose another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"{key} = {str(folder)!r}: {there} cannot be written; choose a folder that you can write")
    return target
