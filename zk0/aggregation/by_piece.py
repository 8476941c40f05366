"""Piece by piece: strategies that make each number of the same number of every update, and of nothing else.

Flower's own class does the sums, of a record with some rows of one tensor; the bytes are those of all tensors at once.
In memory are the new tensors, the new state, and a few pieces; the updates and the old state stay in their files.
"""

import copy
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from logging import ERROR, getLogger
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedMedian, FedProx, FedTrimmedAvg, FedYogi, Strategy
from flwr.serverapp.strategy.fedopt import FedOpt
from numpy.typing import NDArray

from zk0.aggregation.flower import LazyArray
from zk0.aggregation.state import Scalars, Tensors, load_strategy_state, strategy_state
from zk0.files.stored import StoredTensors

_ELEMENTWISE = (FedAvg, FedProx, FedAvgM, FedAdam, FedYogi, FedTrimmedAvg, FedMedian)
"""Not their subclasses, which may look at more."""
THREADS = min(os.cpu_count() or 1, 4)
"""numpy and the hashes run beside one another; each holds a few copies of a piece."""
PIECE_BYTES = 1 << 19
"""What a piece has at most, unless one row has more."""


@dataclass(frozen=True)
class Piece:
    """Some rows of one tensor."""

    name: str
    """The tensor's."""
    rows: slice | None
    """Along the first axis; None for all of it."""


@dataclass(frozen=True)
class Made:
    """What a strategy's aggregate step made of a round, piece by piece."""

    record: dict[str, NDArray[Any]]
    """The new global tensors."""
    metrics: MetricRecord | None
    """Flower's mean of the clients' metrics."""
    tensors: Tensors
    """The strategy's state, as `strategy_state` gives it of all tensors at once."""
    scalars: Scalars
    """The other half of it."""


def elementwise(strategy: Strategy) -> bool:
    """Whether `aggregate` gives what the strategy's own aggregate step gives."""
    return type(strategy) in _ELEMENTWISE


def part(record: ArrayRecord, piece: Piece) -> ArrayRecord:
    """A record with nothing but a piece; lazily read where the record is."""
    array, rows = record[piece.name], piece.rows
    part = ArrayRecord()
    if rows is None:
        part[piece.name] = array
    else:
        part[piece.name] = array.part(rows) if isinstance(array, LazyArray) else Array(array.numpy()[rows])
    return part


def aggregate(
    strategy: Strategy,
    server_round: int,
    given: Callable[[Piece], Sequence[Message]],
    before: ArrayRecord,
    state: tuple[Mapping[str, NDArray[Any]], Mapping[str, Any]],
    cast: Callable[[NDArray[Any], np.dtype[Any]], NDArray[Any]],
) -> Made:
    """Let a strategy aggregate each piece by itself.

    Args:
        strategy: new, and one that is `elementwise`; it is left as it is.
        server_round: the round, from 1.
        given: the replies with one piece alone.
        before: the global tensors that are aggregated, lazily read.
        state: the strategy's after the round before, in two halves.
        cast: to the dtype that a tensor had before.
    """
    names = list(before)
    new: dict[str, NDArray[Any]] = {}
    kept: Tensors = {}

    def one(piece: Piece) -> tuple[MetricRecord | None, Scalars]:
        own = _begun(strategy, before, piece, *_narrowed(piece, names.index(piece.name), *state))
        record, metrics = own.aggregate_train(server_round, given(piece))
        assert record is not None  # there is a quorum
        old = before[piece.name]
        made = record[piece.name].numpy()
        _fill(new, piece.name, piece, old.shape, cast(made, np.dtype(old.dtype)))
        tensors, scalars = strategy_state(own)
        for key, (_, (item,)) in scalars.items():
            if getattr(own, key, None) is not record or made.dtype != old.dtype:  # else FedAvgM's: in memory once
                _fill(kept, f"{key}/{piece.name}", piece, old.shape, tensors[f"{key}/{item}"])
        return metrics, scalars

    pieces = [piece for name in names for piece in _pieces(name, before[name])]
    context = copy_context()  # numpy's error state, and what a line of the log says of its round
    metrics, told = one(pieces[0])  # what Flower logs, it logs once
    with _quiet(), ThreadPoolExecutor(THREADS) as threads:
        for _ in threads.map(lambda piece: context.copy().run(one, piece), pieces[1:]):
            pass  # an exception is raised here
    new = {name: new[name] for name in names}
    return Made(new, metrics, *_whole(kept, told, new))


def _pieces(name: str, array: Array) -> Iterator[Piece]:
    shape = array.shape
    row = math.prod(shape[1:]) * np.dtype(array.dtype).itemsize
    rows = max(1, PIECE_BYTES // max(1, row))
    if not shape or shape[0] <= rows:
        yield Piece(name, None)
        return
    for first in range(0, shape[0], rows):
        yield Piece(name, slice(first, min(first + rows, shape[0])))


def _begun(
    strategy: Strategy, before: ArrayRecord, piece: Piece, tensors: Tensors, scalars: Mapping[str, Any]
) -> Strategy:
    """A strategy for one piece, as its configure step would leave it."""
    own = copy.copy(strategy)
    load_strategy_state(own, tensors, scalars)
    if isinstance(own, FedOpt):
        own.current_arrays = {piece.name: part(before, piece)[piece.name].numpy()}
    elif isinstance(own, FedAvgM) and "current_arrays" not in scalars:
        own.current_arrays = part(before, piece)
    return own


def _narrowed(
    piece: Piece, index: int, tensors: Mapping[str, NDArray[Any]], scalars: Mapping[str, Any]
) -> tuple[Tensors, Scalars]:
    """The state of one piece: in lists tensors are counted, in the order of the names."""
    told = {key: [kind, [str(index) if kind == "list" else piece.name]] for key, (kind, _) in scalars.items()}
    keys = [f"{key}/{item}" for key, (_, (item,)) in told.items()]
    return {key: _rows(tensors, key, piece.rows) for key in keys}, told


def _rows(tensors: Mapping[str, NDArray[Any]], key: str, rows: slice | None) -> NDArray[Any]:
    if isinstance(tensors, StoredTensors):
        return tensors.rows(key, rows)
    return tensors[key] if rows is None else tensors[key][rows]


def _fill(whole: Tensors, name: str, piece: Piece, shape: tuple[int, ...], values: NDArray[Any]) -> None:
    """Put a piece in its place; the first one of a tensor makes room for all, which costs no memory until then."""
    if piece.rows is None:
        whole[name] = values
    else:
        whole.setdefault(name, np.empty(shape, values.dtype))[piece.rows] = values


def _whole(kept: Tensors, told: Scalars, new: Tensors) -> tuple[Tensors, Scalars]:
    """The state of all tensors, under the keys that `strategy_state` gives it; what was not kept is the new tensor."""
    names = list(new)
    numbers = [str(index) for index in range(len(names))]
    scalars: Scalars = {key: [kind, numbers if kind == "list" else names] for key, (kind, _) in told.items()}
    tensors = {
        f"{key}/{item}": kept.get(f"{key}/{name}", new[name])
        for key, (_, items) in scalars.items()
        for item, name in zip(items, names, strict=True)
    }
    return tensors, scalars


@contextmanager
def _quiet() -> Iterator[None]:
    """Flower logs at INFO how many replies it was given; once a round is enough."""
    flower = getLogger("flwr")
    level = flower.level
    flower.setLevel(ERROR)
    try:
        yield
    finally:
        flower.setLevel(level)
