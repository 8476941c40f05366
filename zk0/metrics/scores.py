"""Which rounds can be compared with which, and which of them is the best, by the metric that the config names."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from zk0.metrics import units
from zk0.metrics.units import ACTION_ERROR, GRIPPER_ERROR
from zk0.metrics.values import Json, mapping, number

QUICK = "quick"
FULL = "full"


@dataclass(frozen=True)
class Metric:
    """A figure of an evaluation, averaged over datasets."""

    key: str
    """Its name among an evaluation's figures, without the unit."""
    label: str
    """For people, with the unit where that is always the same."""
    unseen: bool = False
    """Over the settings that no client trains on; else over the clients' hold-outs."""
    higher_is_better: bool = False
    """Its direction."""
    part: str = "evaluate"
    """The part of a round's metrics that has it."""
    weight: str | None = None
    """The figure by which each dataset counts in the mean; None where all count the same."""

    def better(self, one: float, other: float, threshold: float = 0.0) -> bool:
        """Whether one value is better than another by more than a share `threshold` of the latter."""
        if self.higher_is_better:
            return one > other * (1 + threshold)
        return one < other * (1 - threshold)


METRICS = {
    "action_error": Metric(ACTION_ERROR, "action error"),
    "gripper_error": Metric(GRIPPER_ERROR, "gripper error"),
    "loss": Metric("loss", "held-out loss"),
    "unseen_action_error": Metric(ACTION_ERROR, "action error on unseen settings", unseen=True),
    "unseen_loss": Metric("loss", "loss on unseen settings", unseen=True),
    "success_rate": Metric(
        "success_rate", "success in simulation, 0-1", higher_is_better=True, part="rollout", weight="episodes"
    ),
}
"""evaluation.best_metric -> what it is."""


@dataclass(frozen=True)
class Best:
    """The best round so far."""

    server_round: int
    """The round; the first of several that are equally good."""
    metric: str
    """evaluation.best_metric."""
    label: str
    """What it is, for people, with its unit."""
    value: float
    """Its value."""
    frames: str
    """`full`, or `quick` where the run has quick evaluations: the frames that the value was taken on."""


def comparable(rounds: Sequence[Json]) -> tuple[list[Json], str]:
    """The rounds with figures of the same frames: full ones, or the quick ones of all where any has no others.

    Args:
        rounds: lines of metrics.jsonl.

    Returns:
        The lines, and `full` or `quick`.
    """
    if any(mode(line) == QUICK for line in rounds):
        return [as_quick(line) for line in rounds], QUICK
    return list(rounds), FULL


def mode(line: Json) -> str:
    """How a round was evaluated: `full` or `quick`."""
    return QUICK if line.get("evaluation") == QUICK else FULL


def as_quick(line: Json) -> Json:
    """A round's line with the figures of the quick frames; of a full one without them, none."""
    if mode(line) == QUICK:
        return line
    evaluate = {name: mapping(item).get(QUICK) for name, item in mapping(line.get("evaluate")).items()}
    known = {name: item for name, item in evaluate.items() if item is not None}
    return {**line, "evaluate": known, "summary": mapping(mapping(line.get("summary")).get(QUICK)), "evaluation": QUICK}


def scores(rounds: Sequence[Json], metric: Metric, names: Sequence[str], *, quick: bool) -> dict[int, float]:
    """The metric of each round, as a mean over the same datasets in all of them.

    These are the datasets that were evaluated in the first round given, which is round 0. A round in which one of them
    could not be evaluated is left out: a mean over the others would not be comparable. Nor is there one over datasets
    whose errors are in different units.

    Args:
        rounds: lines of metrics.jsonl, by server_round.
        metric: the metric.
        names: the clients, the settings that no client trains on, or the environments, as `dataset_names` gives them.
        quick: whether the run has quick evaluations; then only figures of the quick frames are used.
    """
    lines = [as_quick(line) for line in rounds] if quick else rounds
    values = [{name: _value(line, name, metric) for name in names} for line in lines]
    counted = [name for name in names if values and values[0][name] is not None]
    if not units.comparable(_unit(lines[0], name, metric) for name in counted):
        return {}
    weights = {name: _weight(lines[0], name, metric) for name in counted}
    means = {}
    for line, by_name in zip(lines, values, strict=True):
        known = {name: value for name in counted if (value := by_name[name]) is not None}
        if known and len(known) == len(counted):
            total = sum(value * weights[name] for name, value in known.items())
            means[int(line["server_round"])] = total / sum(weights.values())
    return means


def best(by_round: dict[int, float], metric: Metric) -> int | None:
    """The round with the best score, the first of equals; None where there is no score."""
    winner = None
    for server_round in sorted(by_round):
        if winner is None or metric.better(by_round[server_round], by_round[winner]):
            winner = server_round
    return winner


def best_round(config: Json, rounds: Sequence[Json]) -> Best | None:
    """The best round of a run.

    Args:
        config: the run's RunConfig as plain data; keys that it lacks are at their defaults.
        rounds: lines of metrics.jsonl, by server_round.
    """
    evaluation = mapping(config.get("evaluation"))
    name = str(evaluation.get("best_metric", "action_error"))
    if name not in METRICS:
        return None
    metric = METRICS[name]
    quick = metric.part == "evaluate" and evaluation.get("full_every", 1) != 1
    names = dataset_names(config, metric)
    by_round = scores(rounds, metric, names, quick=quick)
    winner = best(by_round, metric)
    if winner is None:
        return None
    line = next(line for line in rounds if int(line["server_round"]) == winner)
    unit = units.shared(_unit(line, item, metric) for item in names if _value(line, item, metric) is not None)
    return Best(winner, name, units.headed(metric.label, unit), by_round[winner], QUICK if quick else FULL)


def dataset_names(config: Json, metric: Metric) -> list[str]:
    """The datasets, or environments, that a metric is the mean over."""
    evaluation = mapping(config.get("evaluation"))
    listed = evaluation.get("datasets") if metric.unseen else config.get("clients")
    if metric.part == "rollout":
        listed = evaluation.get("environments")
    return [str(mapping(item).get("name")) for item in listed] if isinstance(listed, list) else []


def _value(line: Json, name: str, metric: Metric) -> float | None:
    value = units.value(mapping(line.get(metric.part)).get(name), metric.key)
    return value if value is not None and math.isfinite(value) else None


def _unit(line: Json, name: str, metric: Metric) -> str | None:
    return units.unit_of(mapping(line.get(metric.part)).get(name), metric.key)


def _weight(line: Json, name: str, metric: Metric) -> float:
    if metric.weight is None:
        return 1.0
    return number(mapping(mapping(line.get(metric.part)).get(name)).get(metric.weight)) or 1.0
