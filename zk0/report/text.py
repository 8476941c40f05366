"""Figures as words: brackets, success, change."""

from zk0.metrics.values import Json, interval, mapping, number
from zk0.runs.progress import ClientProgress


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


def phase_text(client: ClientProgress) -> str:
    """What a client is at, and how far."""
    if client.phase == "failed":
        return f"failed, {client.failure}"
    if client.step is not None and client.steps:
        return f"{client.phase} {client.step} of {client.steps}"
    return client.phase


def figure(value: object, digits: int) -> str:
    """A figure with so many digits after the point; a dash where there is none."""
    known = number(value)
    return "-" if known is None else f"{known:.{digits}f}"


def duration(seconds: float | None) -> str:
    """Hours, minutes and seconds; a dash where it is unknown."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
