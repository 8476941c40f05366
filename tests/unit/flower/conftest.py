"""Quick looks at nodes, and Flower's identity of a task, which is a process's own, as it was."""

from collections.abc import Iterator

import pytest
from flwr.supercore.task_identity import TaskIdentity

from zk0.flower import nodes as module


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    monkeypatch.setattr(module, "WHO_S", 0.01)
    names = ("_run_id", "_node_id", "_task_id")
    before = [getattr(TaskIdentity, name) for name in names]
    yield
    for name, value in zip(names, before, strict=True):
        setattr(TaskIdentity, name, value)
