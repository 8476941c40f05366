"""Bootstrap intervals of held-out errors: whole episodes are resampled, for the frames of one resemble each other."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from zk0.metrics import units
from zk0.metrics.units import ACTION_ERROR, GRIPPER_ERROR
from zk0.metrics.values import Json, mapping

CONFIDENCE = 0.95
RESAMPLES = 2000
MOST_DRAWS = 4_000_000
"""Episodes drawn at once: above it the resamples are drawn a part at a time, so that memory is bounded."""
LEAST_EPISODES = 2
"""One episode says nothing of how others would differ."""
ERRORS = (ACTION_ERROR, GRIPPER_ERROR)
"""Figures that are kept by episode."""


class Episodes(NamedTuple):
    """One dataset's held-out episodes, evaluated."""

    steps: Sequence[float]
    """Compared steps of each episode: what it counts in the mean."""
    errors: Sequence[float]
    """Mean error of each, or its change."""


def mean_interval(datasets: Sequence[Episodes], seed: int) -> list[float] | None:
    """Interval of the mean over datasets of each one's mean error over its steps.

    The percentile bootstrap (Efron and Tibshirani 1993, chapter 13) by `scipy.stats.bootstrap`, with the episodes of
    each dataset resampled by themselves: errors within an episode, and of overlapping action chunks, are no
    independent draws, and an interval over frames would be far too narrow. It tells what other episodes of the same
    datasets could have given; neither other settings nor another training of the policy. With few episodes it is too
    narrow as well: see `python -m benchmarks.intervals`.

    Args:
        datasets: one or more.
        seed: of the resampling.

    Returns:
        [low, high] of the 95 % interval; None where a dataset has fewer than LEAST_EPISODES, or there is none.
    """
    return _interval(datasets, lambda *chosen, axis=-1: _mean(datasets, chosen, axis), seed)


def relative_interval(base: Sequence[Episodes], now: Sequence[Episodes], seed: int) -> list[float] | None:
    """As `mean_interval`, of the share by which the mean error is larger than before: (now - base) / base.

    Args:
        base: the datasets, evaluated before.
        now: the same episodes, evaluated later; an episode that is drawn is drawn for both.
        seed: of the resampling.
    """
    return _interval(now, lambda *chosen, axis=-1: _mean(now, chosen, axis) / _mean(base, chosen, axis) - 1, seed)


def _interval(datasets: Sequence[Episodes], statistic: Callable[..., NDArray[Any]], seed: int) -> list[float] | None:
    """Interval of a statistic of episodes' indices, an array of them for each dataset."""
    if not datasets or any(len(item.errors) < LEAST_EPISODES for item in datasets):
        return None
    most = max(1, MOST_DRAWS // sum(len(item.errors) for item in datasets))
    found = bootstrap(
        [np.arange(len(item.errors)) for item in datasets],
        statistic,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        vectorized=True,
        batch=min(RESAMPLES, most),
        rng=np.random.default_rng(seed),
    ).confidence_interval
    bounds = [float(found.low), float(found.high)]
    return bounds if np.isfinite(bounds).all() else None  # a share of nothing


def _mean(datasets: Sequence[Episodes], chosen: Sequence[NDArray[Any]], axis: int) -> NDArray[Any]:
    """Mean over datasets of each one's mean error over the steps of the chosen episodes; along `axis`."""
    known = [(np.asarray(item.steps, np.float64), np.asarray(item.errors, np.float64)) for item in datasets]
    pairs = zip(chosen, known, strict=True)
    means = [(steps[who] * errors[who]).sum(axis) / steps[who].sum(axis) for who, (steps, errors) in pairs]
    return np.asarray(np.mean(means, axis=0))


def of_round(base: Json | None, now: Json, clients: Sequence[str], seed: int) -> dict[str, Any]:
    """Intervals of the means over datasets in one round, and how far all errors are from round 0's.

    Args:
        base: dataset -> figures of round 0 on the frames of this round; None where there is nothing to compare with.
        now: dataset -> figures of this round.
        clients: names of the clients; all other datasets are settings that no client trains on.
        seed: of the resampling.

    Returns:
        `interval_95`: error -> interval of its mean over the clients, and with `unseen_` over the other datasets;
        `change`: as `changes` gives it, or None. Keys of errors say their unit.
    """
    seen = over_datasets([now[name] for name in now if name in clients], seed)
    others = [now[name] for name in now if name not in clients]
    unseen = over_datasets(others, seed, units.unit_of(seen, ACTION_ERROR))
    key = units.key_in(unseen, ACTION_ERROR)
    return {
        "interval_95": {**seen, f"unseen_{key}": unseen[key]},
        "change": None if base is None else changes(base, now, clients, seed),
    }


def over_datasets(
    evaluations: Sequence[Json], seed: int, otherwise: str | None = None
) -> dict[str, list[float] | None]:
    """Interval of the mean over datasets, by error; none where they are in different units.

    Args:
        evaluations: each dataset's figures, as `zk0.learning.evaluation.evaluate` gives them.
        seed: of the resampling.
        otherwise: the unit where there are no figures.
    """
    found = {}
    for name in ERRORS:
        key, known = units.over(evaluations, name, otherwise)
        found[key] = mean_interval([_episodes(item, name) for item in evaluations], seed) if known else None
    return found


def changes(base: Json, now: Json, clients: Sequence[str], seed: int) -> dict[str, Any]:
    """How far each error is from what it was, with paired intervals: both times on the same frames with the same noise.

    What makes an episode hard cancels out, so these intervals are narrower than the two errors' own, which may overlap
    where the change is beyond doubt.

    Args:
        base: dataset -> figures of the round that is compared with.
        now: dataset -> figures of the later round; datasets in one of the two alone, or of other frames, are left out.
        clients: names of the clients, for their mean.
        seed: of the resampling.

    Returns:
        `datasets`: name -> error -> {`mean`, `interval_95`, `relative_interval_95`}, the last one as shares of what it
        was; `clients`: the same for the mean over the clients.
    """
    shared = [name for name in now if _same_frames(mapping(base.get(name)), mapping(now[name]))]
    seen = [name for name in shared if name in clients]

    def change(names: Sequence[str]) -> dict[str, Any]:
        found = {}
        for error in ERRORS:
            key, known = units.over([now[name] for name in names or now], error)
            before, after = ([_episodes(item[name], error) for name in names] for item in (base, now))
            found[key] = _change(before, after, seed) if known else None
        return found

    return {"datasets": {name: change([name]) for name in shared}, "clients": change(seen)}


def _episodes(figures: Json, key: str) -> Episodes:
    known = mapping(figures.get("episodes"))
    errors = units.get(known, key)
    return Episodes(known.get("steps", []), errors if isinstance(errors, list) else [])


def _same_frames(base: Json, now: Json) -> bool:
    before, after = (mapping(item.get("episodes")).get("steps") for item in (base, now))
    same_unit = units.key_in(base, ACTION_ERROR) == units.key_in(now, ACTION_ERROR)
    return bool(after) and before == after and same_unit


def _change(base: Sequence[Episodes], now: Sequence[Episodes], seed: int) -> dict[str, Any] | None:
    if not now or not all(item.errors for item in [*base, *now]):
        return None
    pairs = zip(base, now, strict=True)
    by_episode = [
        Episodes(after.steps, [new - old for old, new in zip(before.errors, after.errors, strict=True)])
        for before, after in pairs
    ]
    means = [float(np.average(item.errors, weights=item.steps)) for item in by_episode]
    return {
        "mean": sum(means) / len(means),
        "interval_95": mean_interval(by_episode, seed),
        "relative_interval_95": relative_interval(base, now, seed),
    }
