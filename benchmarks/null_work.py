"""What clients do in benchmarks of what is around them: next to nothing. By itself, for the worker that imports it."""

from pathlib import Path
from typing import Any

import numpy as np

from zk0.files import atomic
from zk0.metrics.scores import FULL
from zk0.work.records import ClientResult, ClientTask
from zk0.work.results import write_result

TENSORS = 20
"""Of a client's update."""


def work(task: ClientTask, values: int) -> ClientResult:
    """Read what is given, and write a small change of it, or figures; `values` are those of each tensor."""
    tensors: dict[str, Any] | None = None
    metrics: dict[str, Any] = {}
    if task.kind == "init":
        tensors = {f"layer.{number:02}": np.zeros(values, np.float32) for number in range(TENSORS)}
    elif task.kind == "train":
        assert task.incoming is not None
        path = Path(task.run_dir) / task.incoming.path
        atomic.verify(path, task.incoming.sha256, task.incoming.size)
        tensors = {name: value + np.float32(1e-3) for name, value in atomic.read_tensors(path).items()}
        metrics = {"loss": 1.0, "lr": 1e-3, "steps_per_s": 1.0}
    elif task.kind == "evaluate":
        metrics = evaluation()
    return write_result(task, tensors=tensors, num_examples=10, metrics=metrics, duration_s=0.0, peak_rss_bytes=1)


def evaluation() -> dict[str, Any]:
    """Figures as of two held-out episodes of an arm of six joints."""
    joints = [f"joint_{number}" for number in range(6)]
    return {
        "action_error_deg": 3.0,
        "gripper_error": None,
        "loss": 1.0,
        "joint_error": dict.fromkeys(joints, 3.0),
        "joints": joints,
        "units": {"action_error": "deg", "gripper_error": None, "joint_error": dict.fromkeys(joints, "deg")},
        "interval_95": {"action_error_deg": [2.0, 4.0], "joint_error": {name: [2.0, 4.0] for name in joints}},
        "episodes": {"steps": [8, 8], "action_error_deg": [2.0, 4.0], "gripper_error": None},
        "evaluation": FULL,
    }


def echo(payload: str) -> None:
    """Give back the tensors that came, as `benchmarks.null_node` does.

    Args:
        payload: a ClientTask.
    """
    task = ClientTask.model_validate_json(payload)
    assert task.incoming is not None
    tensors = atomic.read_tensors(Path(task.run_dir) / task.incoming.path)
    write_result(task, tensors=tensors, num_examples=1, metrics={}, duration_s=0.0, peak_rss_bytes=1)
