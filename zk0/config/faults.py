"""A fault that pydantic found, in words: the key, the value, what is wrong and what to do."""

import difflib
import reprlib
from typing import Any

from pydantic import BaseModel

from zk0.config.run import RunConfig


def explain(error: Any) -> str:
    """One line for one pydantic error: the key, the value, what is wrong, what to do."""
    location = [part for part in error["loc"] if part != "str" and not str(part).startswith(("function-", "list["))]
    key = ".".join(str(part) for part in location) or "config"
    if error["type"] == "extra_forbidden":
        return f"{key} = {error['input']!r}: unknown key{_did_you_mean(location)}; remove it or correct its spelling"
    if error["type"] == "missing":
        return f"{key}: missing; {_describe(location) or 'add it'}"
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "value_error":  # our own validators name key, value and remedy themselves
        return f"{key}: {message}"
    described = _describe(location)
    return f"{key} = {reprlib.repr(error['input'])}: {message}" + (f" ({described})" if described else "")


def _model_at(location: list[Any]) -> type[BaseModel] | None:
    model: type[BaseModel] | None = RunConfig
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


def _did_you_mean(location: list[Any]) -> str:
    model = _model_at(location[:-1])
    if model is None:
        return ""
    close = difflib.get_close_matches(str(location[-1]), list(model.model_fields), n=1)
    return f" (did you mean {close[0]!r}?)" if close else f" (known here: {', '.join(model.model_fields)})"


def _describe(location: list[Any]) -> str:
    if not location:
        return ""
    model = _model_at(location[:-1])
    field = model.model_fields.get(str(location[-1])) if model else None
    return " ".join(field.description.split()) if field and field.description else ""
