"""Figures in what was read from files: whatever is not what it should be counts as not there."""

from collections.abc import Mapping
from typing import Any

Json = Mapping[str, Any]


def mapping(value: object) -> Json:
    """Take a value for a mapping; anything else counts as an empty one."""
    return value if isinstance(value, Mapping) else {}


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


def in_brackets(value: object, digits: int) -> str:
    """An interval as ` [1.90, 2.95]`, to follow its figure; nothing where there is none."""
    known = interval(value)
    return "" if known is None else f" [{known[0]:.{digits}f}, {known[1]:.{digits}f}]"


def success_text(figures: object) -> str:
    """Success in closed loop with its interval: `12/20 = 60.0% [38.7%, 78.1%]`; nothing where there is none.

    Args:
        figures: `successes`, `episodes`, `success_rate` and `interval_95`, of an environment or of all of them.
    """
    known = mapping(figures)
    rate = number(known.get("success_rate"))
    if rate is None:
        return ""
    bounds = interval(mapping(known.get("interval_95")).get("success_rate"))
    spread = f" [{bounds[0]:.1%}, {bounds[1]:.1%}]" if bounds else ""
    return f"{known.get('successes')}/{known.get('episodes')} = {rate:.1%}{spread}"


def change_of(line: Json, name: str | None, key: str, digits: int) -> str:
    """How far an error is from round 0's, with its interval: `-2.25 [-2.61, -1.90]`; nothing where that is unknown.

    Args:
        line: of metrics.jsonl.
        name: the dataset's, None for the mean over the clients.
        key: the error's.
        digits: after the point.
    """
    change = mapping(line.get("change"))
    by_error = mapping(change.get("clients") if name is None else mapping(change.get("datasets")).get(name))
    mean = number(mapping(by_error.get(key)).get("mean"))
    if mean is None:
        return ""
    return f"{mean:+.{digits}f}{in_brackets(mapping(by_error.get(key)).get('interval_95'), digits)}"
