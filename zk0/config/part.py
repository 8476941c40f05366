"""What every part of the config is made of: no unknown keys, no silent choices, sizes and paths."""

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

ASSET_PREFIX = "asset:"
"""Marks a path inside the installed package, so that a frozen config does not depend on where zk0 is installed."""

NULL = "null"
"""Says that a key which may be absent is, as on LeRobot's command line: TOML has no word for it."""

NAME_PATTERN = r"^[a-z0-9][a-z0-9_.-]{0,62}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]


class Part(BaseModel):
    """A part of the config: immutable, no unknown keys, every field documented by the text under it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Python counts true as 1; in a config it is a slip."""
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation is not bool:
            raise ValueError("true and false do not fit here")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _null_is_absence(cls, value: Any, info: ValidationInfo) -> Any:
        """For a key that a file or an earlier --set has given."""
        may_be_absent = NoneType in get_args(cls.model_fields[info.field_name or ""].annotation)
        return None if value == NULL and may_be_absent else value


def refuse_unread(part: Part, choice: str, readers: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse a key that the chosen one of several ways does not read.

    Args:
        part: the part of the config.
        choice: the key that chooses.
        readers: its value -> the keys that are read then.
    """
    read = readers.get(getattr(part, choice), ())
    for key in sorted({key for keys in readers.values() for key in keys} - {*read}):
        if (value := getattr(part, key)) != (neutral := type(part).model_fields[key].default):
            users = " or ".join(repr(name) for name, keys in readers.items() if key in keys)
            remedy = "leave it out" if neutral is None else f"{key} = {neutral:g}"
            raise ValueError(f"{key} = {value} needs {choice} = {users}; set that, or {remedy}")


def resolve_path(path: str) -> Path:
    """Turn a config path into a real one: `asset:x` lies in the installed package, all else is taken as it is."""
    if path.startswith(ASSET_PREFIX):
        return Path(str(files("zk0") / "assets" / path.removeprefix(ASSET_PREFIX)))
    return Path(path).expanduser()


def size_in_bytes(text: str) -> int:
    """Read a size as Docker spells it: `512m`, `6g`, `1.5G`, `1024` (bytes).

    Raises:
        ValueError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)b?", text.strip().lower())
    if found is None or not float(found[1]):
        raise ValueError(f'{text!r} is no size; write a number with k, m or g, such as "6g"')
    return int(float(found[1]) * 1024 ** "bkmgt".index(found[2] or "b"))


def absolute_path(folder: str | Path) -> Path:
    """A folder that a config names, absolute and with `~` and `asset:` resolved."""
    return resolve_path(str(folder)).absolute()
