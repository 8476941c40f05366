"""Figures as words: three digits, brackets, units, success, change."""

from collections.abc import Sequence

from zk0.metrics import units
from zk0.metrics.units import OPENING
from zk0.metrics.values import Json, interval, mapping, number
from zk0.runs.standing import ClientProgress


def significant(value: float, sign: str = "") -> str:
    """A figure with three significant digits, whatever its unit: 7.02, 0.0731; `sign` as in a format, `+`."""
    if 999.5 <= abs(value) < 1e9:
        return f"{value:{sign}.0f}"
    return f"{value:{sign}#.3g}".removesuffix(".")


def in_brackets(value: object, digits: int | None = None) -> str:
    """An interval as ` [1.90, 2.95]`, to follow its figure, digits as in `figure`; nothing where there is none."""
    known = interval(value)
    return "" if known is None else f" [{figure(known[0], digits)}, {figure(known[1], digits)}]"


def error_text(figures: object, name: str, *, spread: bool = False, unit: str | None = None) -> str:
    """An evaluation's error: `4.00 [3.25, 4.75]`; a dash where there is none.

    Args:
        figures: the evaluation's, or a round's summary.
        name: of the error.
        spread: with its interval.
        unit: what the heading says; where it says nothing, the figure says its own.
    """
    own, value = units.unit_of(figures, name), units.value(figures, name)
    digits = 1 if own == OPENING else None
    text = figure(value, digits)
    if spread:
        text += in_brackets(units.get(mapping(figures).get("interval_95"), name), digits)
    return text if value is None or own is None or own == unit else f"{text} {own}"


def shared_unit(evaluations: Sequence[object], name: str) -> str | None:
    """The unit of an error in all evaluations that have it, for a heading; None where they differ."""
    return units.shared(units.unit_of(item, name) for item in evaluations if units.value(item, name) is not None)


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


def change_of(line: Json, name: str | None, error: str) -> str:
    """How far an error is from round 0's, with its interval: `-2.25 [-2.61, -1.90]`; nothing where that is unknown.

    Args:
        line: of metrics.jsonl.
        name: the dataset's, None for the mean over the clients.
        error: its name, without the unit.
    """
    change = mapping(line.get("change"))
    by_error = mapping(change.get("clients") if name is None else mapping(change.get("datasets")).get(name))
    found = mapping(units.get(by_error, error))
    mean = number(found.get("mean"))
    return "" if mean is None else significant(mean, "+") + in_brackets(found.get("interval_95"))


def phase_text(client: ClientProgress) -> str:
    """What a client is at, and how far."""
    if client.phase == "failed":
        return f"failed, {client.failure}"
    if client.step is not None and client.steps:
        return f"{client.phase} {client.step} of {client.steps}"
    return client.phase


def figure(value: object, digits: int | None = None) -> str:
    """A figure with so many digits after the point, three significant ones when None; a dash where there is none."""
    known = number(value)
    if known is None:
        return "-"
    return significant(known) if digits is None else f"{known:.{digits}f}"


def duration(seconds: float | None) -> str:
    """Hours, minutes and seconds; a dash where it is unknown."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
