"""The estimate before a run, from real steps of the real tiny SmolVLA."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.service import CommandLine
from zk0.config import RunConfig, resolve_path
from zk0.errors import PolicyError
from zk0.executors.calls import preflight
from zk0.executors.process import ProcessExecutor
from zk0.preflight import checks
from zk0.preflight.trial import Trial
from zk0.runs.records import RoundState
from zk0.runs.store import RunStore

pytestmark = pytest.mark.slow
BATCH = 64
MIB = 2**20


def test_the_estimate_is_near_what_the_fit_then_uses(small_config: Callable[..., RunConfig]) -> None:
    config = small_config(memory__probe=True, training__batch_size=BATCH, training__steps=2)
    executor = ProcessExecutor(config.executor)
    found = executor.call(preflight, config).memory
    assert found is not None
    assert found.per_frame > MIB // 4
    assert found.budget > 0
    store = RunStore.create_or_open(config, "estimated")
    initial = executor.run(store.task("init", 0, "server"))
    assert initial.tensors is not None
    task = store.task("train", 1, "kitchen", RoundState(server_round=0, arrays=initial.tensors))
    used = executor.run(task).metrics["peak_ram_train_bytes"]
    assert found.fixed + BATCH * found.per_frame == pytest.approx(used, rel=0.25)


def test_what_a_container_may_have_is_the_budget(small_config: Callable[..., RunConfig]) -> None:
    changes = {"executor__kind": "docker", "executor__docker": {"mem_limit": "3g"}, "memory__soft_limit": 0.5}
    config = small_config(memory__probe=True, **changes)
    found = ProcessExecutor(config.executor).call(preflight, config, True).memory
    assert found is not None
    assert (found.budget, found.whose) == (1536 * MIB, "of the container")


def test_without_the_key_nothing_is_tried(small_config: Callable[..., RunConfig]) -> None:
    config = small_config(memory__probe=False)
    assert ProcessExecutor(config.executor).call(preflight, config).memory is None


def test_a_run_that_cannot_fit_is_refused_before_anything_is_written(zk0: CommandLine) -> None:
    changes = ("--set", "memory.probe=true", "--set", "memory.soft_limit=64m")
    output = zk0.run("run", zk0.config(), "--name", "too-small", *changes, exit_code=2)
    text = " ".join(output.split())
    assert "even with one frame at once, and may use 0.06 GiB" in text
    assert not (zk0.outputs / "too-small").exists()


def test_what_is_the_same_in_all_is_not_tried_again(
    small_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ZK0_CACHE", str(tmp_path / "cache"))
    base = tmp_path / "base"
    shutil.copytree(resolve_path("asset:base"), base)
    config = small_config(memory__probe=True, policy__path=str(base))
    first = checks.preflight(config)
    tries = []

    def tried(config: RunConfig) -> Trial:
        tries.append(config)
        raise PolicyError("tried again")

    monkeypatch.setattr(checks, "try_policy", tried)
    again = checks.preflight(config)
    assert (again.exchanged_bytes, again.warnings) == (first.exchanged_bytes, first.warnings)
    assert again.memory is not None
    assert first.memory is not None
    assert (again.memory.fixed, again.memory.per_frame) == (first.memory.fixed, first.memory.per_frame)
    assert not tries
    for changes in ({"training__batch_size": 5}, {"peft__r": 8}):
        with pytest.raises(PolicyError, match="tried again"):
            checks.preflight(small_config(memory__probe=True, policy__path=str(base), **changes))
    with (base / "model.safetensors").open("r+b") as weights:
        weights.seek(-1, 2)
        weights.write(b"\x01")
    with pytest.raises(PolicyError, match="tried again"):
        checks.preflight(config)
