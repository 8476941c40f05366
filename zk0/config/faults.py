"""A fault that pydantic found, in words: the key, the value, what is wrong and what to do."""

import difflib
import re
import reprlib
from typing import Any

from pydantic import BaseModel

from zk0.config.part import NAME_PATTERN
from zk0.config.run import RunConfig

_SHORT = reprlib.Repr(maxstring=120, maxother=120, maxlong=40)
_FOR_PEOPLE = {
    "model_type": "should be a table of keys, as [{key}] begins one",
    "list_type": "should be a list",
    "list_of_tables": "should be a list of tables, each under [[{key}]]",
    "dict_type": "should be a table of keys",
    "string_type": "should be a text in quotes",
    "name": "should be 1 to 63 of a-z, 0-9, '.', '_' and '-', and begin with a letter or digit",
}
"""Kind of pydantic's error -> what a person who writes TOML is told."""


LONGEST_KEY = 60
"""Characters of a key that is no slip, but another thing."""


def shown(value: object) -> str:
    """A value for a message, whatever it is and however long."""
    try:
        return _SHORT.repr(value)
    except (ValueError, RecursionError):  # Python writes no number of more than 4300 digits
        return "a number of thousands of digits"


def key_of(location: list[Any]) -> str:
    """A key with dots; parts that TOML would want in quotes are in quotes."""
    parts = [str(part) for part in location]
    return ".".join(part if re.fullmatch(rf"[\w-]{{1,{LONGEST_KEY}}}", part) else shown(part) for part in parts)


def explain(error: Any, kind: type[BaseModel] = RunConfig) -> str:
    """One line for one pydantic error: the key, the value, what is wrong, what to do.

    Args:
        error: one of `ValidationError.errors()`.
        kind: the model that was validated.
    """
    location = [
        part
        for part in error["loc"]
        if part != "str" and not str(part).startswith(("function-", "list[", "constrained"))
    ]
    key = key_of(location) or "config"
    if error["type"] == "extra_forbidden":
        near = _did_you_mean(kind, location)
        return f"{key} = {shown(error['input'])}: unknown key{near}; remove it or correct its spelling"
    if error["type"] == "missing":
        return f"{key}: missing; {_describe(kind, location) or 'add it'}"
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "value_error":  # our own validators name key, value and remedy themselves
        return f"{key}: {message}"
    fault = "list_of_tables" if error["type"] == "list_type" and _model_at(kind, location) else error["type"]
    if error.get("ctx", {}).get("pattern") == NAME_PATTERN:
        fault = "name"
    message = _FOR_PEOPLE[fault].format(key=key) if fault in _FOR_PEOPLE else message
    described = _describe(kind, location)
    return f"{key} = {shown(error['input'])}: {message}" + (f" ({described})" if described else "")


def _model_at(kind: type[BaseModel], location: list[Any]) -> type[BaseModel] | None:
    model: type[BaseModel] | None = kind
    for part in location:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part) if model else None
        if field is None:
            return None
        annotation: Any = field.annotation
        inner = getattr(annotation, "__args__", (annotation,))[0]
        model = inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None
    return model


def _did_you_mean(kind: type[BaseModel], location: list[Any]) -> str:
    model = _model_at(kind, location[:-1])
    if model is None:
        return ""
    close = difflib.get_close_matches(str(location[-1])[:LONGEST_KEY], list(model.model_fields), n=1)
    return f" (did you mean {close[0]!r}?)" if close else f" (known here: {', '.join(model.model_fields)})"


def _describe(kind: type[BaseModel], location: list[Any]) -> str:
    if not location:
        return ""
    model = _model_at(kind, location[:-1])
    field = model.model_fields.get(str(location[-1])) if model else None
    return " ".join(field.description.split()) if field and field.description else ""
