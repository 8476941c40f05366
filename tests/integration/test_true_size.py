"""One real step at SmolVLA's true dimensions (450 M parameters, random weights), through the client's own code."""

from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.true_size import write_base
from zk0.config import RunConfig
from zk0.executors.process import ProcessExecutor
from zk0.runs.records import RoundState
from zk0.runs.store import RunStore

PARAMETERS = 450_000_000


@pytest.mark.exhaustive
@pytest.mark.slow
def test_one_step_at_true_size(small_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    base = tmp_path / "base"
    changes = {"policy__path": str(base), "data__normalization": "federated", "peft__r": 16, "peft__lora_alpha": 32}
    config = small_config(**changes, training__steps=1, training__batch_size=1, training__num_threads=2)
    executor = ProcessExecutor(config.executor)
    parameters = executor.call(write_base, str(base))
    assert parameters == pytest.approx(PARAMETERS, rel=0.02)

    store = RunStore.create_or_open(config, "true-size")
    statistics = executor.run(store.task("statistics", 0, "kitchen"))
    initial = executor.run(store.task("init", 0, "server"))
    assert initial.tensors is not None
    state = RoundState(server_round=0, arrays=initial.tensors, stats=statistics.tensors)
    result = executor.run(store.task("train", 1, "kitchen", state))
    assert result.tensors is not None
    assert result.tensors.sha256 != initial.tensors.sha256
    assert result.metrics["loss"] > 0
    assert result.tensors.size < parameters * 4 / 100, "more than a hundredth of the model travels"
