"""What a worker leaves in its folder when its work is done, and how it is found again: nothing is done twice."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loguru import logger

from zk0.errors import ClientError, DamageError
from zk0.files import atomic, untrusted
from zk0.files.tensors import Tensors
from zk0.layout import result_file, tensors_file, tensors_stem
from zk0.work.log import what
from zk0.work.metrics_schema import check
from zk0.work.records import ArtifactRef, ClientResult, ClientTask

ROOM_BYTES = 2**30
"""Largest file of a piece of work beside what it is in proportion to the tensors that it starts from."""
PER_INCOMING_BYTE = 16
"""Most bytes of a file for each of those tensors: an optimizer keeps several numbers, and wider ones, for a weight."""
MOST = {"num_examples": 2**53, "duration_s": 1e9, "peak_rss_bytes": 2**60, "pid": 2**32}
"""Above it a figure is none: no float has such a count, and no machine such a memory."""


def write_result(
    task: ClientTask,
    *,
    tensors: Tensors | None,
    optimizer: Tensors | None = None,
    num_examples: int,
    metrics: Mapping[str, Any],
    duration_s: float,
    peak_rss_bytes: int,
) -> ClientResult:
    """Leave a finished work's files in its folder: the tensors first, then `<kind>.json`, which says that all is there.

    Args:
        task: the work.
        tensors: name -> array, or None where the work gives none.
        optimizer: the optimizer's state, where the client's next fit goes on from it.
        num_examples: the weight, in frames.
        metrics: plain numbers and short lists, by name.
        duration_s: wall time, in seconds.
        peak_rss_bytes: largest resident memory of this process, in bytes.

    Raises:
        StorageError: the folder cannot be written.
    """
    result = ClientResult(
        key=task.key,
        kind=task.kind,
        server_round=task.server_round,
        client=task.client,
        tensors=_write(task, tensors_stem(task.kind), tensors),
        optimizer=_write(task, "optimizer", optimizer),
        num_examples=num_examples,
        metrics=dict(metrics),
        duration_s=duration_s,
        peak_rss_bytes=peak_rss_bytes,
        pid=os.getpid(),
    )
    atomic.write_sealed(task.folder / result_file(task.kind), result.model_dump(mode="json"))
    return result


def _write(task: ClientTask, stem: str, tensors: Tensors | None) -> ArtifactRef | None:
    if tensors is None:
        return None
    path = _path(task, stem)
    digest = atomic.write_tensors(path, tensors)
    return ArtifactRef(path=path.relative_to(task.run_dir).as_posix(), sha256=digest.sha256, size=digest.size)


def _path(task: ClientTask, stem: str) -> Path:
    return task.folder / tensors_file(stem)


def find_finished(task: ClientTask) -> ClientResult | None:
    """The result of exactly this work, if it was finished before and its files are whole; None otherwise.

    Whoever wrote it may have been anyone. One that is damaged is named in the log and is none: the work is done again.
    One that is whole and says what cannot be is the client's word, and would be the same again.

    Raises:
        ClientError: bad_data: such a one.
        StorageError: it cannot be read now, which says nothing of what it is.
    """
    path = task.folder / result_file(task.kind)
    if not atomic.is_there(path):
        return None
    try:
        with atomic.storage_errors(path, "read"):
            result = ClientResult.model_validate(atomic.read_sealed(path, untrusted.SMALL_BYTES))
        if result.key != task.key:
            return None
        _check_words(task, result)
        for stem, ref in ((tensors_stem(task.kind), result.tensors), ("optimizer", result.optimizer)):
            if ref is not None:
                _check_file(task, stem, ref)
    except DamageError as error:
        logger.warning("Finished {} of {} is damaged and will be done again: {}", task.kind, task.client, error)
        return None
    return result


def _check_words(task: ClientTask, result: ClientResult) -> None:
    """Hold what a result says of itself against the work; its key alone is known to everyone who saw the task."""
    told, asked = ((record.kind, record.client, record.server_round) for record in (result, task))
    if told != asked:
        raise _lie(task, f"that it is of {untrusted.words(told)}, not of {asked}")
    for name, most in MOST.items():
        if not 0 <= (value := getattr(result, name)) < most:  # neither is one that is no number
            raise _lie(task, f"{name} = {untrusted.words(value)}, which must be from 0 to {most:g}")
    try:
        check(result.kind, result.metrics)
    except ValueError as error:
        raise _lie(task, f"{untrusted.words(error)}; lower training.lr or check its data") from error


def _lie(task: ClientTask, words: str) -> ClientError:
    return ClientError("bad_data", f"{what(task)}, round {task.server_round}: its record says {words}")


def _check_file(task: ClientTask, stem: str, ref: ArtifactRef) -> None:
    own = _path(task, stem)
    if ref.path != own.relative_to(task.run_dir).as_posix():
        raise _lie(task, f"that its tensors are in {untrusted.words(ref.path)}, which is not this work's {own.name}")
    most = _most_bytes(task)
    if most is not None and ref.size > most:
        raise _lie(task, f"that {own.name} has {ref.size} bytes, and this work can give {most} at most")
    atomic.verify(own, ref.sha256, ref.size)


def _most_bytes(task: ClientTask) -> int | None:
    """Above it a file of this work is not even read; None for the first tensors, whose size nobody knows before."""
    if task.kind == "init":
        return None
    return ROOM_BYTES + PER_INCOMING_BYTE * (task.incoming.size if task.incoming else 0)
