"""A client's finished work is found by its key, and only whole."""

import numpy as np

from tests.unit.runs.made import commit, weights
from zk0.runs.store import RunStore
from zk0.work.results import find_finished, write_result


def test_finished_work_is_found_by_its_key_and_only_whole(store: RunStore, warnings: list[str]) -> None:
    state = commit(store, 0)
    task = store.task("train", 1, "kitchen", state, proximal_mu=0.5)
    assert find_finished(task) is None
    result = write_result(
        task, tensors=weights(1), num_examples=5, metrics={"loss": 0.5}, duration_s=1.0, peak_rss_bytes=1
    )
    assert result.tensors is not None
    assert result.tensors.path == "rounds/0001/clients/kitchen/update.safetensors"
    assert find_finished(task) == result
    assert find_finished(store.task("train", 1, "kitchen", state, proximal_mu=0.25)) is None
    assert warnings == []
    path = store.path(result.tensors)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert find_finished(task) is None
    path.unlink()
    assert find_finished(task) is None
    (task.folder / "train.json").write_text('{"key": ')
    assert find_finished(task) is None
    assert len(warnings) == 3
    assert all("kitchen" in line for line in warnings)


def test_kinds_lie_side_by_side(store: RunStore) -> None:
    task = store.task("statistics", 0, "kitchen")
    result = write_result(
        task, tensors={"mean": np.ones(2)}, num_examples=5, metrics={}, duration_s=1.0, peak_rss_bytes=1
    )
    init = store.task("init", 0, "kitchen")
    write_result(init, tensors=None, num_examples=0, metrics={"nan": float("nan")}, duration_s=0.1, peak_rss_bytes=1)
    assert sorted(path.name for path in task.folder.iterdir()) == [
        "init.json", "statistics.json", "statistics.safetensors"
    ]  # fmt: skip
    assert find_finished(task) == result
    assert find_finished(init) is not None
