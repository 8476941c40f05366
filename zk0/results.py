"""What a worker leaves in its folder when its work is done, and how it is found again: nothing is done twice."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loguru import logger

from zk0 import atomic
from zk0.errors import StorageError
from zk0.records import ArtifactRef, ClientResult, ClientTask


def write_result(
    task: ClientTask,
    *,
    tensors: atomic.Tensors | None,
    optimizer: atomic.Tensors | None = None,
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
    stem = "update" if task.kind == "train" else task.kind
    result = ClientResult(
        key=task.key,
        kind=task.kind,
        server_round=task.server_round,
        client=task.client,
        tensors=_write(task, stem, tensors),
        optimizer=_write(task, "optimizer", optimizer),
        num_examples=num_examples,
        metrics=dict(metrics),
        duration_s=duration_s,
        peak_rss_bytes=peak_rss_bytes,
        pid=os.getpid(),
    )
    atomic.write_sealed(task.folder / f"{task.kind}.json", result.model_dump(mode="json"))
    return result


def _write(task: ClientTask, stem: str, tensors: atomic.Tensors | None) -> ArtifactRef | None:
    if tensors is None:
        return None
    path = task.folder / f"{stem}.safetensors"
    digest = atomic.write_tensors(path, tensors)
    return ArtifactRef(path=path.relative_to(task.run_dir).as_posix(), sha256=digest.sha256, size=digest.size)


def find_finished(task: ClientTask) -> ClientResult | None:
    """The result of exactly this work, if it was finished before and its files are whole; None otherwise."""
    path = task.folder / f"{task.kind}.json"
    with atomic.storage_errors(path, "read"):
        if not path.exists():
            return None
    try:
        with atomic.storage_errors(path, "read"):
            result = ClientResult.model_validate(atomic.read_sealed(path))
        if result.key != task.key:
            return None
        for ref in (result.tensors, result.optimizer):
            if ref is not None:
                atomic.verify(Path(task.run_dir) / ref.path, ref.sha256)
    except StorageError as error:
        logger.warning("Finished {} of {} is damaged and will be done again: {}", task.kind, task.client, error)
        return None
    return result
