"""Which normalisation statistics may be aggregated: a client's own, whole, possible, and not out of all proportion."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zk0.errors import ClientError, DamageError
from zk0.files import atomic, untrusted

MOMENTS = ("mean", "std", "min", "max")
"""What every feature has, all of one shape, beside its count and quantiles."""
MOST_BYTES = 64 * 2**20
"""Statistics are some numbers for each feature."""
MOST_RATIO = 100.0
"""How many times larger a feature's values may be with one client than with half of the others."""
MOST_PICTURE = 255.0
"""Largest value of a picture's statistics, whichever way it was scaled."""
MOST_POINTS = 2**26
"""Of a picture, each of which its statistics may count."""
MOST_FEATURES, LONGEST_NAME = 256, 200
"""Of a recording; letters of one's name."""
LARGEST = 1e19
"""Of any value: its square is a number in float32, in which some are."""
WIDE = ("float32", "float64")
"""What the moments are in: squares of others wrap or overflow."""
NORMALISED = ("action", "observation.")
"""What a policy may normalise begins so."""
PICTURE, PICTURES = "image", ((3, 1, 1), (1, 1, 1))
"""In a feature's name, and the shapes that LeRobot takes its statistics in."""
ESTIMATE = 0.01
"""By how much of the values' range a quantile, which is an estimate, may be beyond it."""
LITTLE = 1e-6
"""For rounding, as a share of the values."""
Features = dict[str, dict[str, NDArray[Any]]]


def refused(files: Mapping[str, Path], examples: Mapping[str, int]) -> dict[str, str]:
    """Whose statistics must not be aggregated, and why.

    Args:
        files: client -> its safetensors file, `feature/statistic` -> array.
        examples: client -> frames that it trains on, where they were counted.
    """
    why: dict[str, str] = {}
    known: dict[str, Features] = {}
    for client, path in files.items():
        try:
            known[client] = _read(path)
            for feature, values in known[client].items():
                _check(feature, values, examples.get(client))
        except (ClientError, DamageError) as error:
            why[client] = str(error)
    whole = {client: features for client, features in known.items() if client not in why}
    why |= {client: fault for client in whole if (fault := _of_another_shape(client, whole))}
    whole = {client: features for client, features in whole.items() if client not in why}
    return why | {client: fault for client in whole if (fault := _out_of_proportion(client, whole, examples))}


def _read(path: Path) -> Features:
    features: Features = {}
    for name, value in atomic.read_tensors(path, MOST_BYTES).items():
        feature, slash, statistic = name.rpartition("/")
        if not slash:
            raise _fault(name, "is no feature/statistic")
        features.setdefault(feature, {})[statistic] = value
        if not feature.isprintable() or len(feature) > LONGEST_NAME:
            raise _fault(name, "is of no plain name")
    if not 0 < len(features) <= MOST_FEATURES:
        count = len(features) or "no"
        raise ClientError(
            "bad_data", f"there are {count} statistics; those of 1 to {MOST_FEATURES} features are needed"
        )
    return features


def _check(feature: str, values: Mapping[str, NDArray[Any]], frames: int | None) -> None:
    """Hold one feature's statistics against what such must be."""
    for statistic, value in values.items():
        _check_numbers(f"{feature}/{statistic}", value)
    if lacking := [name for name in (*MOMENTS, "count") if name not in values]:
        raise _fault(f"{feature}/{lacking[0]}", "is missing")
    shape = values["mean"].shape
    for statistic, value in values.items():
        wanted = (1,) if statistic == "count" else shape
        if value.shape != wanted:
            raise _fault(f"{feature}/{statistic}", f"has the shape {list(value.shape)}, not {list(wanted)}")
    if not shape or (PICTURE in feature and shape not in PICTURES):
        raise _fault(f"{feature}/mean", f"has the shape {list(shape)}, which LeRobot aggregates of no such feature")
    is_picture = len(shape) > 1
    points = MOST_POINTS if is_picture else 1
    _check_count(feature, float(values["count"][0]), None if frames is None else frames * points)
    low, high, std = (np.asarray(values[name], np.float64) for name in ("min", "max", "std"))
    if (low > high).any():
        raise _fault(f"{feature}/min", "is above the maximum")
    if (std < 0).any():
        raise _fault(f"{feature}/std", "is below 0")
    if is_picture:
        _check_picture(feature, values)
    else:
        _check_spread(feature, values, high - low)


def _check_numbers(name: str, value: NDArray[Any]) -> None:
    if value.dtype.kind not in "iuf" or not np.isfinite(value).all():
        raise _fault(name, "has values that are not finite")
    if value.dtype.name not in WIDE and not name.endswith("/count"):
        raise _fault(name, f"is {value.dtype.name}, not float32 or float64")
    if not value.size or float(np.abs(value).max()) > LARGEST:
        raise _fault(name, f"is empty, or has values above {LARGEST:g}")


def _check_count(feature: str, count: float, frames: int | None) -> None:
    if count < 1 or (frames is not None and count > frames):
        most = "" if frames is None else f" to {frames}, by the frames that were counted before the run"
        raise _fault(f"{feature}/count", f"is {count:g}, and must be from 1{most}")


def _check_picture(feature: str, values: Mapping[str, NDArray[Any]]) -> None:
    """Their mean and spread are ImageNet's, whatever they show."""
    for name in (*MOMENTS, *filter(is_quantile, values)):
        if np.abs(values[name]).max() > MOST_PICTURE:
            raise _fault(f"{feature}/{name}", f"is not that of a picture, from 0 to {MOST_PICTURE:g}")


def _check_spread(feature: str, values: Mapping[str, NDArray[Any]], spread: NDArray[Any]) -> None:
    """What lies between the extremes, and is no wider than these are apart."""
    low, high = values["min"], values["max"]
    little = LITTLE * (1 + np.abs(low) + np.abs(high))
    for name in ("mean", *filter(is_quantile, values)):
        slack = little if name == "mean" else little + ESTIMATE * spread
        if ((values[name] < low - slack) | (values[name] > high + slack)).any():
            raise _fault(f"{feature}/{name}", "is not between the minimum and the maximum")
    if (values["std"] > spread + little).any():
        raise _fault(f"{feature}/std", "is more than the values are apart")


def _of_another_shape(client: str, known: Mapping[str, Features]) -> str | None:
    """What of a client's statistics has not the shape of half of the others' at least; None where all have.

    Of two who differ nobody's can be taken.
    """
    for feature, values in known[client].items():
        own = values["mean"].shape
        shapes = [other[feature]["mean"].shape for name, other in known.items() if name != client and feature in other]
        if 2 * shapes.count(own) < len(shapes):
            usual, count = Counter(shapes).most_common(1)[0]
            return (
                f"{untrusted.words(feature)} has the shape {list(own)}, and with {count} of {len(shapes)} others "
                f"{list(usual)}; record the same joints and cameras, or leave the client out"
            )
    return None


def _out_of_proportion(client: str, known: Mapping[str, Features], examples: Mapping[str, int]) -> str | None:
    """What of a client's statistics is far beyond the others'; None where nothing is, or too few can be asked."""
    for feature, values in known[client].items():
        if not feature.startswith(NORMALISED):  # an index, a time: who has recorded more has larger ones
            continue
        others = {name: other[feature] for name, other in known.items() if name != client and feature in other}
        if len(others) < 2:
            continue
        usual = median(_size(other) for other in others.values())
        if usual and (own := _size(values)) > MOST_RATIO * usual:
            return (
                f"{untrusted.words(feature)} goes to {own:.4g}, more than {MOST_RATIO:g} times the others' "
                f"{usual:.4g}; record it in the same unit"
            )
        usual = median(_rate(name, other, examples) for name, other in others.items())
        if usual and (own := _rate(client, values, examples)) > MOST_RATIO * usual:
            return f"{untrusted.words(feature)} counts {own:.4g} points a frame, and the others' {usual:.4g}"
    return None


def _size(values: Mapping[str, NDArray[Any]]) -> float:
    return float(max(np.abs(values["min"]).max(), np.abs(values["max"]).max()))


def _rate(client: str, values: Mapping[str, NDArray[Any]], examples: Mapping[str, int]) -> float:
    """What is counted for each frame: a picture's points, or some of them; 0 where nobody counted the frames."""
    return float(values["count"][0]) / examples[client] if client in examples else 0.0


def is_quantile(name: str) -> bool:
    """Whether a statistic is a quantile: q01, q99."""
    return name[:1] == "q" and name[1:].isdigit()


def _fault(name: str, what: str) -> ClientError:
    return ClientError("bad_data", f"statistic {untrusted.words(name)!r} {what}")
