"""zk0.executors.stopping: who ends a run ends its workers, with all that they started, and wakes who waits for them."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from zk0.config import ExecutorConfig, RunConfig
from zk0.errors import ClientError
from zk0.executors.process import ProcessExecutor
from zk0.executors.stopping import stop_processes, stoppable
from zk0.runs.store import RunStore
from zk0.work.executor import STOPPED
from zk0.work.lock import is_held
from zk0.work.records import ClientTask

WORKER = """
import subprocess, sys, time
from zk0.work.lock import worker_lock
from zk0.work.records import ClientTask
with worker_lock(ClientTask.model_validate_json(sys.argv[1])):
    subprocess.Popen(["sleep", "120"])
    print("at work", flush=True)
    time.sleep(120)
"""
SOON_S = 10


@pytest.fixture(autouse=True)
def cleared() -> Iterator[None]:
    yield
    STOPPED.clear()


@pytest.fixture
def task(small_config: Callable[..., RunConfig]) -> ClientTask:
    return RunStore.create_or_open(small_config(), "run").task("train", 1, "kitchen")


@pytest.fixture
def worker(task: ClientTask) -> Iterator["subprocess.Popen[str]"]:
    """A worker that somebody else started, with a process below it."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, task.model_dump_json()], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n"
    yield process
    process.kill()
    process.communicate()


def test_an_adopted_worker_ends_with_all_below_it_and_the_waiting_thread_wakes(
    task: ClientTask, worker: "subprocess.Popen[str]"
) -> None:
    ended: list[ClientError] = []

    def wait() -> None:
        try:
            ProcessExecutor(ExecutorConfig()).run(task)
        except ClientError as error:
            ended.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.5)
    tree = [psutil.Process(worker.pid), *psutil.Process(worker.pid).children(recursive=True)]
    assert len(tree) == 2
    started = time.monotonic()
    stop_processes(task.run_dir)
    worker.wait(SOON_S)
    waiting.join(SOON_S)
    assert time.monotonic() - started < SOON_S
    assert [process for process in tree if process.is_running() and process.status() != "zombie"] == []
    assert not is_held(task)
    assert [error.cause for error in ended] == ["lost"]
    assert STOPPED.is_set()


def test_a_worker_that_has_no_lock_yet_is_ended_and_another_runs_is_not(task: ClientTask) -> None:
    mine, other = (subprocess.Popen(["sleep", "60"]) for _ in range(2))
    with stoppable(task, mine.pid), stoppable(task.model_copy(update={"run_dir": "/elsewhere"}), other.pid):
        stop_processes(task.run_dir)
        mine.wait(SOON_S)
        assert other.poll() is None
    other.kill()
    other.wait()


def test_nothing_begins_in_a_run_that_was_ended(task: ClientTask) -> None:
    stop_processes(task.run_dir)
    with pytest.raises(ClientError, match="the run was ended"):
        ProcessExecutor(ExecutorConfig()).run(task)
    late = subprocess.Popen(["sleep", "60"])
    with pytest.raises(ClientError, match="the run was ended"), stoppable(task, late.pid):
        pass
    late.wait(SOON_S)


def test_a_lock_that_names_somebody_else_ends_nobody(task: ClientTask) -> None:
    bystander = subprocess.Popen(["sleep", "60"])
    assert not is_held(task)
    (task.folder / "train.lock").write_text(str(bystander.pid))
    stop_processes(task.run_dir)
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()
