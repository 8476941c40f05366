"""A committed round as named numbers, and a config as what may be told of it."""

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from zk0.config import RunConfig
from zk0.metrics.values import Json, interval, number

LEFT_OUT = ("server_round", "episodes", "change")
"""Of a line of metrics.jsonl: the step itself; lists by episode; what can be reckoned from the rest."""
TOLD = ("seed", "continue_from", "federation", "policy", "peft", "training", "data", "evaluation", "adaptive")
"""Parts of the config that a tracker is told."""


def figures(line: Json) -> dict[str, float]:
    """The numbers of a line of metrics.jsonl, by their path in it: `train/kitchen/loss`.

    An interval becomes `.../low` and `.../high`; `failures` their number.
    """
    found = dict(_numbers({key: value for key, value in line.items() if key != "failures"}, ""))
    failures = line.get("failures")
    return {**found, "failures": float(len(failures))} if isinstance(failures, list) else found


def _numbers(value: object, path: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key not in LEFT_OUT:
                yield from _numbers(item, f"{path}/{key}" if path else str(key))
    elif (found := interval(value)) is not None:
        yield f"{path}/low", found[0]
        yield f"{path}/high", found[1]
    elif (one := number(value)) is not None:
        yield path, one


def told_config(config: RunConfig) -> dict[str, Any]:
    """What of a config a tracker is told: what is learned and how, and nothing of this machine's folders."""
    dumped = config.model_dump(mode="json")
    clients = [{"name": client.name, "steps": client.steps} for client in config.clients]
    return {**{part: _without_paths(dumped[part]) for part in TOLD}, "clients": clients}


def _without_paths(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_paths(item) for key, item in value.items() if not _is_path(item)}
    return [_without_paths(item) for item in value if not _is_path(item)] if isinstance(value, list) else value


def _is_path(value: object) -> bool:
    return isinstance(value, str) and PurePath(value).is_absolute()
