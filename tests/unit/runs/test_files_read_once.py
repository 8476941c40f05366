"""A commit reads no file twice, and takes over none that is not what its reference says."""

from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from benchmarks.service import small_run
from zk0.config import validate_config
from zk0.errors import StorageError
from zk0.files import atomic, untrusted
from zk0.runs.records import RoundState
from zk0.runs.store import RunStore
from zk0.work.records import ArtifactRef
from zk0.work.results import write_result

TENSORS = {"weight": np.ones(8, np.float32)}


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore.create_or_open(validate_config(small_run(tmp_path / "outputs")), "run")


def commit(store: RunStore, number: int, before: RoundState | None) -> RoundState:
    """A round whose tensors were placed before, with a client's result and an optimizer of an earlier round."""
    task = store.task("train", number, "kitchen", before)
    result = write_result(
        task, tensors=TENSORS, optimizer=TENSORS, num_examples=1, metrics={}, duration_s=1.0, peak_rss_bytes=1
    )
    assert result.optimizer is not None
    return store.commit(
        number,
        arrays=store.place(number, "global", TENSORS),
        stats=before.stats if before else store.place(number, "stats", TENSORS),
        strategy_tensors=TENSORS,
        strategy_scalars={},
        metrics={},
        results=[result],
        optimizers={"kitchen": result.optimizer, **({"office": before.optimizers["kitchen"]} if before else {})},
    )


def test_no_file_is_read_twice_in_a_commit(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    state = commit(store, 0, None)
    opened: list[Path] = []
    reader = untrusted.reader

    def watched(path: Path, **options: Any) -> IO[bytes]:
        opened.append(path)
        return reader(path, **options)

    monkeypatch.setattr(untrusted, "reader", watched)
    commit(store, 1, state)
    assert len(opened) == len(set(opened))
    told = [path.relative_to(store.folder).as_posix().removeprefix("rounds/") for path in opened]
    assert sorted(told) == [
        "0000/clients/kitchen/optimizer.safetensors", "0000/metrics.json", "0000/stats.safetensors",
        "0001/clients/kitchen/train.json", "0001/global.safetensors", "0001/metrics.json",
        "metrics.jsonl",
    ]  # fmt: skip


def test_a_file_that_is_not_what_its_reference_says_replaces_nothing(store: RunStore) -> None:
    there = store.place(0, "global", TENSORS)
    source = store.place(1, "global", {"weight": np.zeros(8, np.float32)})
    odd = ArtifactRef(path=source.path, sha256=there.sha256, size=source.size)
    with pytest.raises(StorageError, match=r"0001/global.safetensors: its SHA-256 is not the recorded one"):
        store.place(0, "global", odd)
    atomic.verify(store.path(there), there.sha256)
    assert [path.name for path in store.round_folder(0).iterdir()] == ["global.safetensors"]
    with pytest.raises(StorageError, match="its SHA-256 is not the recorded one"):
        store.place(1, "global", odd)  # where it lies already


def test_a_source_that_cannot_be_read_is_named(store: RunStore, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"gone\.safetensors: cannot be read"):
        store.place(0, "global", tmp_path / "gone.safetensors")
