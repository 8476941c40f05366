"""zk0.executors.process: a call survives the death of its process and of the fork server."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.conftest import fill
from zk0.config import ExecutorConfig, RunConfig
from zk0.errors import ClientError, StorageError
from zk0.executors.death import outcome
from zk0.executors.process import ProcessExecutor
from zk0.executors.worker import STORAGE_EXIT_CODE, work
from zk0.runs.store import RunStore
from zk0.work.lock import lock_path
from zk0.work.records import ClientResult, ClientTask
from zk0.work.results import find_finished, write_result


class LightExecutor(ProcessExecutor):
    """Its fork server imports nothing heavy beforehand."""

    preload = ("zk0.executors.call",)


def kill_once(marker: Path, victim: str) -> str:
    if not marker.exists():
        marker.touch()
        os.kill(os.getppid() if victim == "fork server" else os.getpid(), signal.SIGKILL)
        time.sleep(2)
    return "done"


def kill_always() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("victim", ["fork server", "itself"])
def test_a_call_outlives_its_fork_server_and_is_made_again_when_its_process_died(tmp_path: Path, victim: str) -> None:
    assert LightExecutor(ExecutorConfig()).call(kill_once, tmp_path / "marker", victim) == "done"


def test_a_call_that_always_dies_is_given_up() -> None:
    with pytest.raises(ClientError, match="was killed by SIGKILL, 3 times"):
        LightExecutor(ExecutorConfig()).call(kill_always)


@pytest.fixture
def task(small_config: Callable[..., RunConfig]) -> ClientTask:
    return RunStore.create_or_open(small_config(), "run").task("train", 1, "kitchen")


def finish(task: ClientTask) -> ClientResult:
    return write_result(task, tensors=None, num_examples=1, metrics={}, duration_s=0.1, peak_rss_bytes=1)


def test_a_worker_that_comes_late_does_nothing(task: ClientTask) -> None:
    """Its fork server died when it had not taken its lock yet, so a second worker was started and has finished."""
    result = finish(task)
    work(task.model_dump_json())
    assert find_finished(task) == result
    assert not (task.folder / "client.log").exists()


def test_a_worker_without_its_lock_is_waited_for(task: ClientTask) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(2)"])
    threading.Timer(1.0, finish, [task]).start()
    assert ProcessExecutor(ExecutorConfig())._adopt(task, psutil.Process(process.pid)).num_examples == 1
    assert process.wait() == 0


def test_a_worker_whose_disk_is_full_says_so_without_a_traceback(
    small_config: Callable[..., RunConfig], make_disk: Callable[[str], Path]
) -> None:
    """It cannot even write its PID into its lock; its exit code tells, and the orchestrator finds the reason itself."""
    disk = make_disk("64k")
    task = RunStore.create_or_open(small_config(outputs_dir=str(disk)), "run").task("train", 1, "kitchen")
    task.folder.mkdir(parents=True)
    lock_path(task).touch()
    fill(disk)
    code = f"from zk0.executors.worker import work; work({task.model_dump_json()!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == STORAGE_EXIT_CODE, done.stderr
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
    with pytest.raises(StorageError, match="free some space"):
        outcome(task, done.returncode)
