"""Write docs/config.md, the reference of every config key, from RunConfig itself.

`python scripts/config_reference.py` writes it; `tests/unit/test_docs.py` holds it up to date.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel
from pydantic.fields import FieldInfo

from zk0.config import RunConfig

TARGET = Path(__file__).parent.parent / "docs" / "config.md"
INTRODUCTION = """# The config

Made by `scripts/config_reference.py` from `zk0/config/`; change it there.

A run is described by a TOML file, or by the name of a shipped one: `zk0 run my.toml`, `zk0 run so100`. `--set` changes
single keys, by their dotted name, with an index for an item of a list: `--set training.steps=20`,
`--set clients.0.root=recordings/kitchen`. An unknown key, a wrong type and a value out of range are refused before
anything starts. Relative paths in a file are relative to that file, those in `--set` to where you are.

A run's result depends on every key but those in `outputs_dir`, `[executor]`, `[checkpoint]`, `[report]`,
`[tracking]`, `[logging]` and `[memory]`; these may be changed for a run that is under way.
"""


def render() -> str:
    """The whole document."""
    return INTRODUCTION + "".join(_section(RunConfig, "Top level", "", "All of a run."))


def _section(model: type[BaseModel], title: str, prefix: str, purpose: str) -> Iterator[str]:
    groups = [(name, field, part) for name, field in model.model_fields.items() if (part := _part(field.annotation))]
    plain = [(name, field) for name, field in model.model_fields.items() if not _part(field.annotation)]
    yield f"\n## {title}\n\n{purpose}\n"
    if plain:
        yield "\n| key | type | default | meaning |\n|---|---|---|---|\n"
        yield from (_row(prefix + name, field) for name, field in plain)
    for name, field, part in groups:
        is_list = get_origin(field.annotation) is list
        heading = f"`[[{prefix}{name}]]`" if is_list else f"`[{prefix}{name}]`"
        yield from _section(part, heading, f"{prefix}{name}.", _one_line(field.description) or _one_line(part.__doc__))


def _row(key: str, field: FieldInfo) -> str:
    default = "required" if field.is_required() else _literal(field.get_default(call_default_factory=True))
    bounds = ", ".join(_bound(item) for item in field.metadata if not isinstance(item, AfterValidator))
    kind = _type(field.annotation) + (f", {bounds}" if bounds else "")
    cells = (f"`{key}`", kind, default, _one_line(field.description))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _part(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds, itself or in a list."""
    for item in (annotation, *get_args(annotation)):
        if isinstance(item, type) and issubclass(item, BaseModel):
            return item
    return None


def _type(annotation: Any) -> str:
    if get_origin(annotation) is Annotated:
        return _type(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{json.dumps(choice)}`" for choice in get_args(annotation))
    if (
        isinstance(annotation, UnionType) or get_origin(annotation) is Union
    ):  # which of them `x | None` makes depends on x
        return " or ".join(_type(item) for item in get_args(annotation) if item is not type(None))
    names = {str: "text", int: "integer", float: "number", bool: "true/false"}
    if annotation in names:
        return names[annotation]
    return {list: "list", dict: "table"}[get_origin(annotation)]


def _bound(item: Any) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "min_length": "length >="}
    named = [f"{sign} {getattr(item, name)}" for name, sign in signs.items() if getattr(item, name, None) is not None]
    return " ".join(named) or f"pattern `{item.pattern}`"


def _literal(value: Any) -> str:
    return "-" if value is None else f"`{json.dumps(value)}`"


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
    print(f"written: {TARGET}")
