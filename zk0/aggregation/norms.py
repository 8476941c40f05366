"""The size of a change, and changes scaled down; all sums in float64. Without Flower: a client clips by it, too."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

LITTLE = 1e-3
"""Share by which a clipped change may be larger than its bound, for the rounding of its numbers."""


def square(value: NDArray[Any], base: NDArray[Any]) -> float:
    """Squared norm of one tensor's change; 0 of integers, infinite where it is too large for a number."""
    if value.dtype.kind != "f":
        return 0.0
    with np.errstate(over="ignore"):
        change = np.asarray(np.subtract(value, base, dtype=np.float64))  # of one number numpy makes no array
        return float(np.sum(np.square(change, out=change)))  # a second array would cost more than the sums


def scaled(value: NDArray[Any], base: NDArray[Any], scale: float) -> NDArray[Any]:
    """A tensor whose distance from another one is multiplied by a factor from 0 to 1; integers stay as they are."""
    if value.dtype.kind != "f":
        return value
    wide = base.astype(np.float64)
    return np.asarray(wide + (value - wide) * scale, value.dtype)


def clipped(
    update: Mapping[str, NDArray[Any]], base: Mapping[str, NDArray[Any]], most: float
) -> tuple[dict[str, NDArray[Any]], bool]:
    """An update whose change is no larger than a bound, and whether it was larger; not a bit changes where it was not.

    Args:
        update: name -> tensor.
        base: those that it started from; may have more.
        most: largest norm of the change, all tensors taken as one vector.
    """
    norm = math.sqrt(sum(square(value, base[name]) for name, value in update.items()))
    if norm <= most:
        return dict(update), False
    return {name: scaled(value, base[name], most / norm) for name, value in update.items()}, True
