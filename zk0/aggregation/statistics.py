"""Which normalisation statistics may be aggregated: a client's own, whole, possible, and not out of all proportion."""

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
    return why | {client: fault for client in whole if (fault := _out_of_proportion(client, whole))}


def _read(path: Path) -> Features:
    features: Features = {}
    for name, value in atomic.read_tensors(path, MOST_BYTES).items():
        feature, slash, statistic = name.rpartition("/")
        if not slash:
            raise _fault(name, "is no feature/statistic")
        features.setdefault(feature, {})[statistic] = value
    if not features:
        raise ClientError("bad_data", "there are no statistics")
    return features


def _check(feature: str, values: Mapping[str, NDArray[Any]], frames: int | None) -> None:
    """Hold one feature's statistics against what such must be."""
    for statistic, value in values.items():
        if value.dtype.kind not in "iuf" or not np.isfinite(value).all():
            raise _fault(f"{feature}/{statistic}", "has values that are not finite")
    if lacking := [name for name in (*MOMENTS, "count") if name not in values]:
        raise _fault(f"{feature}/{lacking[0]}", "is missing")
    shape = values["mean"].shape
    for statistic, value in values.items():
        wanted = (1,) if statistic == "count" else shape
        if value.shape != wanted:
            raise _fault(f"{feature}/{statistic}", f"has the shape {list(value.shape)}, not {list(wanted)}")
    is_picture = len(shape) > 1
    _check_count(feature, float(values["count"][0]), None if is_picture else frames)  # pictures may count their points
    low, mean, high, std = (np.asarray(values[name], np.float64) for name in ("min", "mean", "max", "std"))
    if (low > high).any():
        raise _fault(f"{feature}/min", "is above the maximum")
    if (std < 0).any():
        raise _fault(f"{feature}/std", "is below 0")
    if is_picture:
        _check_picture(feature, values)
    else:
        _check_spread(feature, low, mean, high, std)


def _check_count(feature: str, count: float, frames: int | None) -> None:
    if count < 1 or (frames is not None and count > frames):
        most = "" if frames is None else f" to {frames}, the frames that were counted before the run"
        raise _fault(f"{feature}/count", f"is {count:g}, and must be from 1{most}")


def _check_picture(feature: str, values: Mapping[str, NDArray[Any]]) -> None:
    """Their mean and spread are ImageNet's, whatever they show."""
    for name in MOMENTS:
        if np.abs(values[name]).max() > MOST_PICTURE:
            raise _fault(f"{feature}/{name}", f"is not that of a picture, from 0 to {MOST_PICTURE:g}")


def _check_spread(feature: str, low: NDArray[Any], mean: NDArray[Any], high: NDArray[Any], std: NDArray[Any]) -> None:
    little = LITTLE * (1 + np.abs(low) + np.abs(high))
    if ((mean < low - little) | (mean > high + little)).any():
        raise _fault(f"{feature}/mean", "is not between the minimum and the maximum")
    if (std > high - low + little).any():
        raise _fault(f"{feature}/std", "is more than the values are apart")


def _out_of_proportion(client: str, known: Mapping[str, Features]) -> str | None:
    """What of a client's statistics is far beyond the others'; None where nothing is, or too few can be asked."""
    for feature, values in known[client].items():
        sizes = [_size(other[feature]) for name, other in known.items() if name != client and feature in other]
        if len(sizes) < 2 or not (usual := median(sizes)):
            continue
        if (own := _size(values)) > MOST_RATIO * usual:
            return (
                f"{untrusted.words(feature)} goes to {own:.4g}, more than {MOST_RATIO:g} times the others' "
                f"{usual:.4g}; record it in the same unit"
            )
    return None


def _size(values: Mapping[str, NDArray[Any]]) -> float:
    return float(max(np.abs(values["min"]).max(), np.abs(values["max"]).max()))


def _fault(name: str, what: str) -> ClientError:
    return ClientError("bad_data", f"statistic {untrusted.words(name)!r} {what}")
