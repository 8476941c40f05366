"""One tensor at a time: strategies that make each number of the same number of every update, and of nothing else.

Flower's own class does the sums, of a record with one tensor; the bytes are those of all tensors at once. In memory are
the new tensors, the new state, and what a few threads work on; the updates and the old state stay in their files.
"""

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from logging import ERROR, getLogger
from typing import Any, NamedTuple

from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedMedian, FedProx, FedTrimmedAvg, FedYogi, Strategy
from flwr.serverapp.strategy.fedopt import FedOpt
from numpy.typing import NDArray

from zk0.aggregation.state import Scalars, Tensors, load_strategy_state, strategy_state

_ELEMENTWISE = (FedAvg, FedProx, FedAvgM, FedAdam, FedYogi, FedTrimmedAvg, FedMedian)
"""Not their subclasses, which may look at more."""
THREADS = min(os.cpu_count() or 1, 4)
"""numpy and the hashes run beside one another; each holds a few copies of one tensor."""


@dataclass(frozen=True)
class ByTensor:
    """What a strategy's aggregate step made of a round, tensor by tensor."""

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


def aggregate(
    strategy: Strategy,
    server_round: int,
    given: Callable[[str], Sequence[Message]],
    before: ArrayRecord,
    state: tuple[Mapping[str, NDArray[Any]], Mapping[str, Any]],
    cast: Callable[[str, NDArray[Any]], NDArray[Any]],
) -> ByTensor:
    """Let a strategy aggregate each tensor by itself.

    Args:
        strategy: new, and one that is `elementwise`; it is left as it is.
        server_round: the round, from 1.
        given: name -> the replies with this tensor alone.
        before: the global tensors that are aggregated, lazily read.
        state: the strategy's after the round before, in two halves.
        cast: a new tensor by its name -> the one to keep.
    """
    names = list(before)

    def one(index: int) -> _Part:
        name = names[index]
        part = _begun(strategy, before, name, state[0], _narrowed(state[1], index, name))
        record, metrics = part.aggregate_train(server_round, given(name))
        assert record is not None  # there is a quorum
        tensors, scalars = strategy_state(part)
        kept = getattr(part, "current_arrays", None) is record  # FedAvgM's: the same tensor, in memory once
        new = tensors[f"current_arrays/{name}"] if kept else record[name].numpy()
        return _Part(cast(name, new), metrics, tensors, scalars)

    context = copy_context()  # numpy's error state, and what a line of the log says of its round
    parts = [one(0)]  # what Flower logs, it logs once
    with _quiet(), ThreadPoolExecutor(THREADS) as threads:
        parts += threads.map(lambda index: context.copy().run(one, index), range(1, len(names)))
    record = {name: part.new for name, part in zip(names, parts, strict=True)}
    return ByTensor(record, parts[0].metrics, *_whole(parts))


class _Part(NamedTuple):
    """What came of one tensor: it, and what `aggregate_train` and `strategy_state` gave beside it."""

    new: NDArray[Any]
    metrics: MetricRecord | None
    tensors: Tensors
    scalars: Scalars


def _begun(
    strategy: Strategy, before: ArrayRecord, name: str, tensors: Mapping[str, NDArray[Any]], scalars: Mapping[str, Any]
) -> Strategy:
    """A strategy for one tensor, as its configure step would leave it."""
    part = copy.copy(strategy)
    load_strategy_state(part, tensors, scalars)
    if isinstance(part, FedOpt):
        part.current_arrays = {name: before[name].numpy()}
    elif isinstance(part, FedAvgM) and "current_arrays" not in scalars:
        part.current_arrays = ArrayRecord()
        part.current_arrays[name] = before[name]
    return part


def _narrowed(scalars: Mapping[str, Any], index: int, name: str) -> Scalars:
    """The scalars of a state with one tensor of each attribute: lists count them, in the order of the names."""
    return {key: [kind, [str(index) if kind == "list" else name]] for key, (kind, _) in scalars.items()}


def _whole(parts: Sequence[_Part]) -> tuple[Tensors, Scalars]:
    """The state of all tensors, of the states of each."""
    tensors: Tensors = {}
    scalars: Scalars = {key: [kind, []] for key, (kind, _) in parts[0].scalars.items()}
    for index, part in enumerate(parts):
        for key, (kind, (item,)) in part.scalars.items():
            place = str(index) if kind == "list" else item
            scalars[key][1].append(place)
            tensors[f"{key}/{place}"] = part.tensors[f"{key}/{item}"]
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
