"""Check that every episode's recorded statistics are those of its rows: all clients' normalisation is made of them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zk0.data.findings import DataFinding
from zk0.data.statistics import STATISTICS, Stats, missing_statistics, recorded_statistics
from zk0.data.subject import Subject, first_of

CONSTANT_RANGE = 1e-3
"""Joint units: the range of a joint that does not move, for what is a share of the range."""
STALE = 1e-3
"""Of the joint's range: recorded figures are off by up to 1e-5 in LeRobot's own recordings; of edited rows, by more."""
ROUNDED = 1e-5
"""Of the largest value: what single precision loses in a mean."""
ROUNDED_SQUARE = 1e-6
"""Of the square of the largest value: the same for a variance, as LeRobot reckons it."""
STALE_QUANTILE = 2e-2
"""Of the joint's range: LeRobot estimates quantiles by a histogram."""
FEW_ROWS = 2
"""Rows by which the place of a quantile may be off: with few rows it lies anywhere between two of them."""
REMEDY = "`zk0 check-data CONFIG --fix-to FOLDER` writes a copy with those of its rows"


def check_statistics(subject: Subject) -> DataFinding:
    """Every episode has its statistics, and they are those of its rows."""
    recorded = recorded_statistics(subject.meta)
    wrong = [
        f"episode {episode} lacks {missing}"
        for episode, stats in sorted(recorded.items())
        for missing in missing_statistics(subject.meta, stats)
    ] or list(_stale(subject, recorded))
    if not wrong:
        return subject.ok("statistics", f"{len(recorded)} episodes")
    seen = f"{Path(subject.meta.root) / 'meta' / 'episodes'}: {first_of(wrong)}"
    if subject.config.data.normalization == "base":
        return subject.warning("statistics", f"{seen}; data.normalization = 'base' does not use them", REMEDY)
    return subject.error("statistics", seen, REMEDY)


def _stale(subject: Subject, recorded: dict[int, Stats]) -> Iterator[str]:
    """Where recorded statistics are not numbers, or not those of the rows."""
    owner = subject.column("episode_index")
    for key in subject.learned():
        values = subject.vectors(key)
        if values is None or not np.isfinite(values).all():
            continue
        for episode, stats in sorted(recorded.items()):
            mine = values[owner == episode]
            # of a matrix LeRobot records those of its columns
            mine = mine.reshape(len(mine), *subject.meta.features[key]["shape"])
            if len(mine) and key in stats:
                for name, found in _wrong(stats[key], mine):
                    yield f"the {name} of {key!r} in episode {episode} is {_brief(found)}, not that of its rows"


def _wrong(
    stats: dict[str, NDArray[np.float64]], rows: NDArray[np.float64]
) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """The statistics of an episode that are not those of its rows, shape (rows, ...), and what they are."""
    for name in (*STATISTICS, *(name for name in stats if name not in STATISTICS)):
        if name in stats:
            found = np.asarray(stats[name], dtype=np.float64).reshape(-1)
            size = (1,) if name == "count" else rows.shape[-1:]
            columns = rows if name == "count" else rows.reshape(-1, rows.shape[-1])
            if found.shape != size or not np.isfinite(found).all() or not _is_of(name, found, columns):
                yield name, found


def _brief(found: NDArray[np.float64]) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in found[:8]) + (", ...]" if len(found) > 8 else "]")


def _is_of(name: str, found: NDArray[np.float64], rows: NDArray[np.float64]) -> bool:
    """Whether a statistic, shape (dimensions,), is that of the rows, as far as other tools reckon alike."""
    largest = np.abs(rows).max(axis=0)
    allowed = STALE * np.maximum(np.ptp(rows, axis=0), CONSTANT_RANGE) + ROUNDED * largest
    match name:
        case "count":
            return bool(found[0] == len(rows))
        case "mean" | "min" | "max":
            true = {"mean": rows.mean(axis=0), "min": rows.min(axis=0), "max": rows.max(axis=0)}[name]
            return bool((np.abs(found - true) <= allowed).all())
        case "std":
            variance = rows.var(axis=0)
            sample = variance * len(rows) / max(len(rows) - 1, 1)  # other tools divide by one row less
            off = np.minimum(np.abs(found**2 - variance), np.abs(found**2 - sample))
            slack = allowed * (2 * np.sqrt(variance) + allowed) + ROUNDED_SQUARE * largest**2
            return bool((found >= 0).all() and (off <= slack).all())
        case _ if name[:1] == "q" and name[1:].isdecimal():
            return _is_quantile(found, int(name[1:]) / 100, rows)
    return True


def _is_quantile(found: NDArray[np.float64], share: float, rows: NDArray[np.float64]) -> bool:
    """Whether about that share of the rows is below, in every dimension."""
    near = STALE_QUANTILE * np.maximum(np.ptp(rows, axis=0), CONSTANT_RANGE) + ROUNDED * np.abs(rows).max(axis=0)
    few = FEW_ROWS / len(rows)
    below, up_to = (rows < found - near).mean(axis=0), (rows <= found + near).mean(axis=0)
    return bool(((below <= share + few) & (up_to >= share - few)).all())
