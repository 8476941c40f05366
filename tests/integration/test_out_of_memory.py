"""Out of memory for real: a soft limit, a kernel's kill, a quarantine; the real tiny SmolVLA, in processes."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from benchmarks.service import CommandLine, small_run
from tests.cgroups import limited_cgroup
from zk0.config import RunConfig, validate_config
from zk0.errors import QuarantineError
from zk0.executors.process import ProcessExecutor
from zk0.federation.guard import run_guarded
from zk0.memory import client_limits
from zk0.memory.samples import read_samples
from zk0.runs.records import RoundState
from zk0.runs.store import RunStore
from zk0.work.attempts import failed_causes
from zk0.work.records import ClientResult, ClientTask
from zk0.work.told import OUT_OF_MEMORY

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
BATCH, STEPS = 128, 3
MIB = 2**20


def begin(config: RunConfig, name: str) -> tuple[RunStore, ClientTask]:
    """A run, and the fit of its first client."""
    store = RunStore.create_or_open(config, name)
    initial = ProcessExecutor(config.executor).run(store.task("init", 0, "server"))
    assert initial.tensors is not None
    return store, store.task("train", 1, "kitchen", RoundState(server_round=0, arrays=initial.tensors))


def fit(config: RunConfig, name: str) -> tuple[ClientTask, ClientResult]:
    store, task = begin(config, name)
    return task, run_guarded(ProcessExecutor(config.executor).run, task, store.config)


def update_of(result: ClientResult, task: ClientTask) -> dict[str, np.ndarray]:
    assert result.tensors is not None
    return dict(load_file(Path(task.run_dir) / result.tensors.path))


def assert_equal_but_for_rounding(
    task: ClientTask, result: ClientResult, other: tuple[ClientTask, ClientResult]
) -> None:
    ours, theirs = update_of(result, task), update_of(other[1], other[0])
    start = load_file(Path(task.run_dir) / str(task.incoming and task.incoming.path))
    learnt = max(float(np.abs(theirs[name] - start[name]).max()) for name in theirs)
    assert max(float(np.abs(ours[name] - theirs[name]).max()) for name in theirs) < 1e-3 * learnt
    assert result.metrics["loss"] == pytest.approx(other[1].metrics["loss"], rel=1e-4)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RunConfig]:
    """Batches whose activations are what memory goes to."""
    outputs = tmp_path_factory.mktemp("wide")
    common: dict[str, float] = {"training__batch_size": BATCH, "training__steps": STEPS, "checkpoint__every_steps": 0}
    common |= {"memory__sample_interval_s": 0.1}
    return lambda **changes: validate_config(small_run(outputs, **common, **changes))


@pytest.fixture(scope="module")
def undisturbed(wide: Callable[..., RunConfig]) -> tuple[ClientTask, ClientResult]:
    return fit(wide(memory__soft_limit=0), "enough")


def test_a_soft_limit_ends_the_fit_cleanly_and_it_goes_on_in_half_the_micro_batch(
    wide: Callable[..., RunConfig], undisturbed: tuple[ClientTask, ClientResult]
) -> None:
    halved = fit(wide(memory__soft_limit=0, training__micro_batch_size=BATCH // 2), "halved")[1]
    much, less = (result.metrics["peak_ram_train_bytes"] for result in (undisturbed[1], halved))
    assert much - less > 50 * MIB, "the batch is too small to show anything"

    task, result = fit(wide(memory__soft_limit=f"{(much + less) // 2 // MIB}m"), "little")
    assert failed_causes(task.folder, "train") == ["out_of_memory"]
    assert result.metrics["micro_batch_size"] == BATCH // 2
    assert result.metrics["steps"] == STEPS
    log = (task.folder / "client.log").read_text()
    assert re.search(r"The fit goes on after step [12], from its checkpoint", log)
    assert_equal_but_for_rounding(task, result, undisturbed)
    assert {"load", "train"} <= {sample["phase"] for sample in read_samples(task.folder)}
    known = client_limits.read(Path(task.run_dir), "kitchen", "train")
    assert known is not None
    assert known.micro_batch_size == BATCH // 2
    assert "soft limit" in known.notes[0].figures


KILLED = """
import json, os, sys
from pathlib import Path

def main(group, limit_file, config_file, run_dir):
    Path(group, "cgroup.procs").write_text(str(os.getpid()))
    from zk0.config import validate_config
    from zk0.executors.process import ProcessExecutor
    from zk0.federation import guard
    from zk0.work.records import ClientTask
    config = validate_config(json.loads(Path(config_file).read_text()))
    executor = ProcessExecutor(config.executor)
    for line in sys.stdin:
        order = json.loads(line)
        Path(group, limit_file).write_text(str(order["limit"]))
        task = ClientTask.model_validate(order["task"])
        result = guard.run_guarded(executor.run, task, config) if order["guarded"] else executor.run(task)
        print("RESULT " + result.model_dump_json(), flush=True)

if __name__ == "__main__":
    main(*sys.argv[1:])
"""


@pytest.mark.exhaustive
def test_a_kill_by_the_kernel_is_recognised_and_survived(
    wide: Callable[..., RunConfig], undisturbed: tuple[ClientTask, ClientResult], tmp_path: Path
) -> None:
    """All of it in a cgroup with a limit: the worker dies, not what started it, and half the micro-batch completes."""
    config = wide(memory__soft_limit=0)
    half_config = wide(memory__soft_limit=0, training__micro_batch_size=BATCH // 2)
    half_task = begin(half_config, "half")[1]
    store, task = begin(config, "killed")
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    (tmp_path / "config.json").write_text(config.model_dump_json())
    with limited_cgroup(1 << 40) as group:
        limit_file = next(name for name in ("memory.max", "memory.limit_in_bytes") if (group / name).exists())
        peak_file = next(name for name in ("memory.peak", "memory.max_usage_in_bytes") if (group / name).exists())
        arguments = [sys.executable, str(script), str(group), limit_file, str(tmp_path / "config.json"), task.run_dir]
        with subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        ) as process:  # fmt: skip
            assert process.stdin is not None
            assert process.stdout is not None

            def order(work: ClientTask, limit: int, *, guarded: bool) -> ClientResult:
                message = {"task": work.model_dump(mode="json"), "limit": limit, "guarded": guarded}
                print(json.dumps(message), file=process.stdin, flush=True)
                line = next((text for text in process.stdout if text.startswith("RESULT ")), None)
                assert line is not None, "the orchestrator was killed"
                return ClientResult.model_validate_json(line.removeprefix("RESULT "))

            half = order(half_task, 1 << 40, guarded=False)
            between = undisturbed[1].metrics["peak_ram_train_bytes"] - half.metrics["peak_ram_train_bytes"]
            assert between > 50 * MIB, "the batch is too small to show anything"
            result = order(task, int((group / peak_file).read_text()) + between // 4, guarded=True)
            process.stdin.close()
    assert failed_causes(task.folder, "train") == ["out_of_memory"]
    assert result.metrics["micro_batch_size"] == BATCH // 2
    known = client_limits.read(store.folder, "kitchen", "train")
    assert known is not None
    assert "killed by the kernel, out of memory" in known.notes[0].figures
    assert "GiB that the cgroup allows" in known.notes[0].figures
    assert_equal_but_for_rounding(task, result, undisturbed)


def test_a_sigkill_without_the_kernels_doing_is_no_out_of_memory(small_config: Callable[..., RunConfig]) -> None:
    import signal
    import threading

    from tests.integration.test_fit_checkpoint import cause_of
    from zk0.work.lock import lock_path

    config = small_config(training__steps=2000, memory__sample_interval_s=0.1)
    _, task = begin(config, "sigkill")
    causes: list[str] = []
    executor = ProcessExecutor(config.executor)
    thread = threading.Thread(target=lambda: causes.append(cause_of(executor, task)))
    thread.start()
    for _ in range(3000):
        if "train" in {sample["phase"] for sample in read_samples(task.folder)}:
            break
        threading.Event().wait(0.02)
    pid = int(lock_path(task).read_text())
    assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) >= 500, "the kernel would not take it first"
    os.kill(pid, signal.SIGKILL)
    thread.join()
    assert causes == ["lost"]


def test_torch_says_what_the_worker_looks_for() -> None:
    with pytest.raises(RuntimeError, match=OUT_OF_MEMORY):
        torch.empty(1 << 50, dtype=torch.uint8)


def test_a_worker_that_no_micro_batch_helps_is_quarantined(small_config: Callable[..., RunConfig]) -> None:
    with pytest.raises(
        QuarantineError, match=r"micro-batch 4: .*micro-batch 2: .*micro-batch 1: soft limit: "
    ) as caught:
        fit(small_config(training__steps=8, memory__soft_limit="1m"), "hopeless")
    assert "ended after step 3 of 8" in str(caught.value), "each attempt goes on from the one before"


@pytest.mark.exhaustive
def test_below_one_the_client_is_quarantined_and_the_quorum_decides(zk0: CommandLine) -> None:
    """With a limit below what Python itself needs nothing fits; with more memory and one client released it goes on."""
    # Every attempt gets one step further, from its checkpoint: with few steps the last one would be done.
    config = zk0.config(federation__num_rounds=2, federation__min_train_clients=1, training__steps=8)
    output = zk0.run("run", config, "--name", "tiny", "--set", "memory.soft_limit=1m", exit_code=3)
    text = " ".join(output.split())
    assert "0 of 2 clients gave an update" in text
    assert "is quarantined: train runs out of memory even with one frame at once" in text
    folder = zk0.outputs / "tiny"
    for client in ("kitchen", "workshop"):
        known = client_limits.read(folder, client, "train")
        assert known is not None
        assert [note.micro_batch_size for note in known.notes] == [4, 2, 1]
    client_limits.path_of(folder, "kitchen", "train").unlink()
    zk0.run("run", config, "--name", "tiny", "--set", "memory.soft_limit=0", "--set", "federation.may_miss=1")
    for line in zk0.metrics("tiny")[1:]:
        assert set(line["train"]) == {"kitchen"}
        failure = next(item for item in line["failures"] if item["kind"] == "train")
        assert (failure["client"], failure["cause"]) == ("workshop", "out_of_memory")
        assert "micro-batch 1: soft limit" in failure["message"]
    assert zk0.metrics("tiny")[-1]["orchestrator"]["rss_bytes"] > 50 * MIB
    phases = {sample["phase"] for sample in read_samples(folder)}
    assert {"fit", "evaluate"} <= phases
