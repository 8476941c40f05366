"""Recordings that are in two datasets, whatever these are called: recognised by the numbers of their rows."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zk0.preflight.records import Rows

SHARED_ROWS = 0.5
"""Of an episode's rows: from here on it is the same recording, be it cut or thinned out. Arms at rest share a few."""
LEAST_ROWS = 3
"""Fewer distinct ones are no recording."""
MOST_ROWS = 8192
"""Digests that are kept of a dataset: of more rows those whose digests are multiples of a power of two."""

Digests = NDArray[np.uint64]
Numbers = NDArray[np.int64]


def rows_of(vectors: Sequence[NDArray[np.float64]], episodes: NDArray[np.float64]) -> Rows:
    """Digest every row of state and action as single precision, in which LeRobot stores them.

    Args:
        vectors: features, each of shape (rows, dimensions).
        episodes: the episode of each row.
    """
    values = np.concatenate(vectors, axis=1).astype(np.float32) + np.float32(0)  # -0 is 0
    bits = np.ascontiguousarray(values).view(np.uint32).astype(np.uint64)
    weights = np.random.default_rng(0).integers(1, 2**63, bits.shape[1], dtype=np.uint64) | np.uint64(1)
    digests = _mixed(_mixed(bits) * weights).sum(axis=1, dtype=np.uint64)
    every = 1
    while (digests & np.uint64(every - 1) == 0).sum() > MOST_ROWS:
        every *= 2
    kept = digests & np.uint64(every - 1) == 0
    return Rows(digests=digests[kept].tolist(), episodes=episodes[kept].astype(np.int64).tolist(), every=every)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele et al. 2014): every bit depends on every other."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def shared_episodes(mine: Rows, others: Rows) -> dict[int, int]:
    """Episode of mine -> the episode of the others that it is, for those that most of whose rows are there, too."""
    every = max(mine.every, others.every)
    return _shared(*_arrays(mine, every), *_arrays(others, every))


def repeated_episodes(rows: Rows) -> dict[int, int]:
    """Episode -> the earlier episode of the same dataset that it is once more."""
    digests, episodes = _arrays(rows, rows.every)
    _, first, number = np.unique(digests, return_index=True, return_inverse=True)
    earlier = episodes[first][number] < episodes
    found: dict[int, int] = {}
    for episode in np.unique(episodes[earlier]):  # few, or none
        here, before = episodes == episode, episodes < episode
        found |= _shared(digests[here], episodes[here], digests[before], episodes[before])
    return found


def _shared(digests: Digests, episodes: Numbers, other_digests: Digests, other_episodes: Numbers) -> dict[int, int]:
    known, first = np.unique(other_digests, return_index=True)
    found: dict[int, int] = {}
    if not len(known):
        return found
    for episode in np.unique(episodes):
        rows = np.unique(digests[episodes == episode])
        places = np.minimum(np.searchsorted(known, rows), len(known) - 1)
        same = places[known[places] == rows]
        if len(same) >= max(LEAST_ROWS, SHARED_ROWS * len(rows)):
            found[int(episode)] = int(np.bincount(other_episodes[first[same]]).argmax())
    return found


def _arrays(rows: Rows, every: int) -> tuple[Digests, Numbers]:
    digests, episodes = np.array(rows.digests, np.uint64), np.array(rows.episodes, np.int64)
    kept = digests & np.uint64(every - 1) == 0
    return digests[kept], episodes[kept]
