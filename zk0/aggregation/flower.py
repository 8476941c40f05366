"""Flower outside its runtime: the only place that knows of its private parts.

Its strategies speak in Messages, and a Message can be made outside the runtime in no other way. Held by
tests/unit/aggregation/test_flower.py.
"""

import random
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

from zk0.aggregation import norms
from zk0.files import atomic
from zk0.files.tensors import Entry

WEIGHT_KEY = "num-examples"


class NodeGrid(Grid):
    """The clients as Flower's nodes 1..N in config order: all that a strategy's configure step asks of a grid."""

    def __init__(self, num_nodes: int) -> None:
        """Name the nodes."""
        self._num_nodes = num_nodes

    def get_node_ids(self) -> Iterable[int]:
        """1..N."""
        return range(1, self._num_nodes + 1)

    def _unused(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError("work is sent to clients by zk0's executors, not through Flower's grid")

    set_run = create_message = push_messages = pull_messages = send_and_receive = _unused
    run = property(_unused)


class LazyArray(Array):
    """A tensor that stays in its safetensors file: a strategy then holds one client's tensor at a time, not all."""

    def __init__(self, path: Path, entry: Entry, rows: slice | None = None, *, follow: bool = False) -> None:
        """Say where it lies. Past Array's own __init__ and __setattr__, which want the bytes."""
        shape = entry.shape if rows is None else (rows.stop - rows.start, *entry.shape[1:])
        self.__dict__.update(path=path, entry=entry, rows=rows, follow=follow)
        self.__dict__.update(dtype=entry.dtype, shape=shape, stype="numpy.ndarray", data=b"")

    def part(self, rows: slice) -> "LazyArray":
        """Some rows of it, along the first axis."""
        path, entry, follow = (self.__dict__[key] for key in ("path", "entry", "follow"))
        return LazyArray(path, entry, rows, follow=follow)

    def numpy(self) -> NDArray[Any]:
        """Read the tensor."""
        path, entry, rows, follow = (self.__dict__[key] for key in ("path", "entry", "rows", "follow"))
        return atomic.read_tensor(path, entry, rows, follow=follow)


class ScaledArray(LazyArray):
    """A client's tensor whose distance from the global one is scaled down when it is read."""

    def __init__(self, own: Array, base: Array, scale: float) -> None:
        """Say where both lie, and the factor, from 0 to 1."""
        self.__dict__.update(own.__dict__, own=own, base=base, scale=scale)

    def part(self, rows: slice) -> LazyArray:
        """Some rows of it."""
        own, base, scale = (self.__dict__[key] for key in ("own", "base", "scale"))
        return ScaledArray(own.part(rows), base.part(rows), scale)

    def numpy(self) -> NDArray[Any]:
        """Read both tensors."""
        return norms.scaled(self.__dict__["own"].numpy(), self.__dict__["base"].numpy(), self.__dict__["scale"])


class WideArray(LazyArray):
    """A tensor in float64, for strategies that reckon distances: in float32 those of near updates drown in rounding."""

    def __init__(self, own: Array) -> None:
        """Say whose."""
        self.__dict__.update(own.__dict__, own=own)

    def numpy(self) -> NDArray[Any]:
        """Read the tensor."""
        return np.asarray(self.__dict__["own"].numpy(), np.float64)


def ensure_task_identity() -> None:
    """Let Messages be made outside Flower's runtime.

    Since 1.38 a Message asks the private TaskIdentity of its process who sends it, and raises where no runtime has
    set it; no strategy reads it. Inside a ServerApp it is set and left alone. Hence the pin and
    tests/unit/aggregation/test_flower.py.
    """
    try:
        _ = (TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id)
    except RuntimeError:
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Flower draws from the global generators: seed them, and give them back as they were."""
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - the one Flower draws from
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


def lazy_record(path: Path, without: Collection[str] = (), *, follow: bool = False) -> ArrayRecord:
    """A record of LazyArrays, by sorted name; filled item by item, as ArrayRecord(dict) would copy them to Arrays.

    Args:
        path: safetensors file.
        without: names that are left out.
        follow: whether it may lie behind a link, as the global tensors may, and no client's.
    """
    record = ArrayRecord()
    with atomic.opened_tensors(path, follow=follow) as file:
        for name in sorted({*file.entries} - {*without}):
            record[name] = LazyArray(path, file.entries[name], follow=follow)
    return record


def scaled_record(record: ArrayRecord, base: ArrayRecord, scale: float) -> ArrayRecord:
    """A client's update with its distance from the global tensors scaled; both of LazyArrays, and so is what is given.

    With a scale of 1 it is the record itself: not a bit changes.
    """
    if scale == 1:
        return record
    scaled = ArrayRecord()
    for name, array in record.items():
        scaled[name] = ScaledArray(array, base[name], scale)
    return scaled


def lacking(record: ArrayRecord, names: Collection[str]) -> ArrayRecord:
    """The same tensors but for some."""
    if not names:
        return record
    rest = ArrayRecord()
    for name, array in record.items():
        if name not in names:
            rest[name] = array
    return rest


def wide_record(record: ArrayRecord) -> ArrayRecord:
    """The same tensors in float64."""
    wide = ArrayRecord()
    for name, array in record.items():
        wide[name] = WideArray(array)
    return wide
