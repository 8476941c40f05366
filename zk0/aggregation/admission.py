"""Which updates may be aggregated."""

from collections.abc import Collection
from pathlib import Path
from typing import NoReturn

import numpy as np

from zk0.aggregation.flower import lazy_record
from zk0.errors import ClientError, StorageError
from zk0.files import atomic
from zk0.work.records import ClientResult


def check_update(result: ClientResult, run_dir: Path, arrays: Path, frozen: Collection[str] = ()) -> None:
    """Refuse an update that must not be aggregated.

    Args:
        result: the finished fit.
        run_dir: the run directory.
        arrays: safetensors file of the global tensors that the fit started from.
        frozen: names of those that no client sends.

    Raises:
        ClientError: bad_data: no examples, no tensors, other names, shapes or dtypes, or values that are not finite;
            names the first tensor.
        StorageError: the update's file is missing or not what the fit wrote.
    """
    if result.tensors is None or result.num_examples < 1:
        _refuse(result, f"num_examples = {result.num_examples}, tensors = {result.tensors}: nothing was trained")
    path = run_dir / result.tensors.path
    atomic.verify(path, result.tensors.sha256, result.tensors.size)
    there = lazy_record(arrays, frozen)
    try:
        here = lazy_record(path)
    except StorageError as error:  # just what the fit wrote: no damage, and the same whenever it is read
        _refuse(result, str(error))
    if odd := sorted(there.keys() ^ here.keys()):
        fault = "missing" if odd[0] in there else "frozen" if odd[0] in frozen else "not one of the global tensors"
        _refuse(result, f"tensor {odd[0]!r} is {fault}")
    for name, array in here.items():
        expected = (there[name].dtype, there[name].shape)
        if (array.dtype, array.shape) != expected:
            _refuse(
                result, f"tensor {name!r} is {array.dtype}{list(array.shape)}, not {expected[0]}{list(expected[1])}"
            )
        if not np.isfinite(array.numpy()).all():
            _refuse(result, f"tensor {name!r} has values that are not finite; lower training.lr or check its data")


def _refuse(result: ClientResult, reason: str) -> NoReturn:
    raise ClientError("bad_data", f"client {result.client!r}, round {result.server_round}: {reason}")
