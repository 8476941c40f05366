"""Figures in what was read from files: whatever is not what it should be counts as not there."""

from collections.abc import Mapping
from typing import Any

Json = Mapping[str, Any]


def mapping(value: object) -> Json:
    """Take a value for a mapping; anything else counts as an empty one."""
    return value if isinstance(value, Mapping) else {}


def mappings(value: object) -> list[Json]:
    """Take a value for a list of mappings; what is none counts as an empty one."""
    return [mapping(item) for item in value] if isinstance(value, list) else []


def number(value: object) -> float | None:
    """Take a value for a number; anything else counts as none."""
    try:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    except OverflowError:  # an integer beyond every float
        return None


def interval(value: object) -> list[float] | None:
    """Take a value for an interval, [low, high]; anything else counts as none."""
    bounds = [number(bound) for bound in value] if isinstance(value, list) else []
    known = [bound for bound in bounds if bound is not None]
    return known if len(known) == len(bounds) == 2 else None
