"""Each piece of work in a process of its own, forked from a server that has the heavy imports done.

What this does not cover: it is no sandbox. A worker has the user's rights, network and memory; the Docker executor is
for isolation.
"""

import json
import multiprocessing
import multiprocessing.forkserver
import signal
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

import psutil
from loguru import logger

from zk0.config import ExecutorConfig
from zk0.errors import ClientError
from zk0.executors import worker
from zk0.records import ClientResult, ClientTask
from zk0.run_store import find_finished

ADOPTED_POLL_S = 0.5
Result = TypeVar("Result")


class ProcessExecutor:
    """Runs tasks in forked processes whose memory goes back to the system when they end.

    Importing torch, LeRobot and transformers takes 10-30 s; the fork server does it once, and each worker starts from
    there in well under a second. The orchestrator itself never imports them.
    """

    def __init__(self, config: ExecutorConfig) -> None:
        self._config = config
        self._context = multiprocessing.get_context("forkserver")

    def warm_up(self) -> None:
        """Start the fork server, so that its imports overlap with whatever the caller does next."""
        self._context.set_forkserver_preload(["zk0.client_app", "zk0.logs"])
        multiprocessing.forkserver.ensure_running()

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function in a worker process and hand its (small) result, or its error, back."""
        self.warm_up()
        with ProcessPoolExecutor(1, mp_context=self._context) as pool:
            return pool.submit(function, *arguments).result()

    def run(self, task: ClientTask) -> ClientResult:
        """See `Executor.run`."""
        if (found := find_finished(task)) is not None:
            logger.info("{} of {} in round {} is already done", task.kind, task.client, task.server_round)
            return found
        with worker.worker_lock(task) as free:
            adopted = None if free else _holder(task)
        if adopted is not None:
            return self._adopt(task, adopted)
        if not free and worker.wait_until_free(task, self._config.timeout_s) and find_finished(task) is not None:
            return self.run(task)  # a container did it: the executor was changed while it worked
        return self._start(task)

    def _start(self, task: ClientTask) -> ClientResult:
        self.warm_up()
        process = self._context.Process(target=worker.work, args=(task.model_dump_json(),), name=f"zk0-{task.client}")
        process.start()
        process.join(self._config.timeout_s)
        if process.exitcode is None:
            _kill_tree(process.pid)
            process.join()
            raise self._timed_out(task)
        exit_code = process.exitcode
        process.close()
        return _outcome(task, exit_code)

    def _adopt(self, task: ClientTask, process: psutil.Process) -> ClientResult:
        """Wait for a worker that an earlier orchestrator left behind: its work is not run twice."""
        logger.info("{} of {} in round {}: adopted PID {}", task.kind, task.client, task.server_round, process.pid)
        deadline = process.create_time() + self._config.timeout_s
        while time.time() < deadline:
            with worker.worker_lock(task) as free:
                if free:
                    return _outcome(task, None)
            time.sleep(ADOPTED_POLL_S)
        _kill_tree(process.pid)
        raise self._timed_out(task)

    def _timed_out(self, task: ClientTask) -> ClientError:
        limit = self._config.timeout_s
        return ClientError(
            "timeout", f"{task.kind} of {task.client!r} took longer than executor.timeout_s = {limit:g} s; it was ended"
        )


def _holder(task: ClientTask) -> psutil.Process | None:
    """The live worker that holds the task's lock; None where it ended in the meantime, or is in a container."""
    text = worker.lock_path(task).read_text()
    return psutil.Process(int(text)) if text.isdecimal() and psutil.pid_exists(int(text)) else None


def _outcome(task: ClientTask, exit_code: int | None) -> ClientResult:
    """The result that an ended worker left, or a ClientError that says how it died.

    Args:
        task: the work.
        exit_code: of the worker, negative for a signal; None where it is unknown (an adopted worker).
    """
    if (found := find_finished(task)) is not None:
        return found
    what = f"{task.kind} of {task.client!r}"
    failure = worker.failure_path(task)
    if failure.is_file():
        record = json.loads(failure.read_text(encoding="utf-8"))
        raise ClientError(record["cause"], f"{what}: {record['message']}")
    log = task.folder / "client.log"
    if exit_code is None:
        raise ClientError("lost", f"{what}: the adopted worker ended without a result; see {log}")
    if exit_code < 0:
        name = signal.Signals(-exit_code).name
        raise ClientError("lost", f"{what}: the worker was killed by {name}; see {log}")
    raise ClientError("error", f"{what}: {_last_line(log)} (exit code {exit_code}; see {log})")


def _last_line(log: Any) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


def _kill_tree(pid: int | None) -> None:
    """Kill a worker and what it started; DataLoader processes would outlive it."""
    if pid is None or not psutil.pid_exists(pid):
        return
    parent = psutil.Process(pid)
    for process in [*parent.children(recursive=True), parent]:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs([parent], timeout=10)
