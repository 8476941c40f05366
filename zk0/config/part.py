"""What every part of the config is made of: no unknown keys, no silent choices, nothing odd; and sizes."""

import math
import re
from collections.abc import Mapping
from datetime import date, time
from types import NoneType
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from zk0.config.paths import odd_text

NULL = "null"
"""Says that a key which may be absent is, as on LeRobot's command line: TOML has no word for it."""

NAME_PATTERN = r"^[a-z0-9][a-z0-9_.-]{0,62}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]

MOST = 2**63 - 1
"""The greatest whole number of a TOML file, and of most that reads it."""
DEEPEST = 16
"""Levels of tables and lists within a value that is handed on as it is, such as policy.overrides."""


class Part(BaseModel):
    """A part of the config: immutable, no unknown keys, every field documented by the text under it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Python counts true as 1; in a config it is a slip."""
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation is not bool:
            raise PydanticCustomError("truth", "true and false do not fit here")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _nothing_odd(cls, value: Any, info: ValidationInfo) -> Any:
        """What JSON has no word for, and what is beyond all measure, would only be met when it is written or used."""
        annotation = cls.model_fields[info.field_name or ""].annotation
        parts = [item for item in (annotation, *get_args(annotation)) if isinstance(item, type)]
        if not any(issubclass(item, BaseModel) for item in parts):  # a part looks at its own keys
            _refuse_odd(value)
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _null_is_absence(cls, value: Any, info: ValidationInfo) -> Any:
        """For a key that a file or an earlier --set has given."""
        may_be_absent = NoneType in get_args(cls.model_fields[info.field_name or ""].annotation)
        return None if value == NULL and may_be_absent else value


def _refuse_odd(value: Any, within: str = "", depth: int = 0) -> None:
    """Refuse a value by what it is or holds; numbers of a field of its own are told of infinity by pydantic."""
    if isinstance(value, Mapping | list | tuple) and depth < DEEPEST:
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            if isinstance(value, Mapping) and (fault := _oddity(key) if isinstance(key, str) else "is no text"):
                raise PydanticCustomError("odd", "{fault}", {"fault": f"the key {key!r} {fault}"})
            _refuse_odd(item, f"{within}.{key}".lstrip("."), depth + 1)
    elif fault := _oddity(value, nested=bool(within)):
        raise PydanticCustomError("odd", "{fault}", {"fault": f"{within} {fault}" if within else fault})


def _oddity(value: Any, *, nested: bool = False) -> str:
    """What is wrong with a single value; empty where nothing is."""
    found = ""
    if isinstance(value, Mapping | list | tuple):
        found = f"is nested deeper than {DEEPEST} levels"
    elif isinstance(value, int) and abs(value) > MOST:
        found = f"is beyond {MOST}, the greatest whole number"
    elif isinstance(value, date | time):
        found = "is a date or time, which does not fit; write it in quotes if a text is meant"
    elif isinstance(value, str):
        found = odd_text(value) or ""
    elif nested and isinstance(value, float) and not math.isfinite(value):
        found = f"is {value}, no finite number"
    elif nested and not isinstance(value, int | float | None):
        found = f"is of Python's type {type(value).__name__}, which no config can hold"
    return found


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


def size_in_bytes(text: str) -> int:
    """Read a size as Docker spells it: `512m`, `6g`, `1.5G`, `1024` (bytes).

    Raises:
        ValueError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)b?", text.strip().lower())
    size = float(found[1]) * 1024 ** "bkmgt".index(found[2] or "b") if found else 0.0
    if not 1 <= size <= MOST:
        raise ValueError(f'{text[:40]!r} is no size; write a number with k, m or g, such as "6g"')
    return int(size)
