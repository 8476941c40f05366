"""Each piece of work in a process of its own, forked from a server that has the heavy imports done.

What this does not cover: it is no sandbox. A worker has the user's rights, network and memory; the Docker executor is
for isolation.
"""

import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import psutil
from loguru import logger

from zk0.config import ExecutorConfig
from zk0.errors import ClientError
from zk0.executors.worker import HELD_EXIT_CODE, STORAGE_EXIT_CODE, work
from zk0.files import untrusted
from zk0.files.atomic import storage_errors
from zk0.memory.cgroup import machine_oom_kills
from zk0.memory.samples import killed_for_memory, last_words
from zk0.work.failure import read_failure, unwritable
from zk0.work.lock import is_held, lock_path, wait_until_free
from zk0.work.log import client_log, last_line, what
from zk0.work.records import ClientResult, ClientTask
from zk0.work.results import find_finished

ADOPTED_POLL_S = 0.5
FORK_SERVER_GONE = 255
"""Exit code that multiprocessing gives to every worker whose fork server has died, while the worker itself lives on."""
STARTS = 3
"""Fork servers that may die under one piece of work before it is given up: the kernel kills some if memory is short."""
RESTART_PAUSE_S = 0.5
LONGEST_NAME = 64
"""Bytes of a lock that may name its holder."""
Result = TypeVar("Result")
_MAIN = threading.Lock()


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
        self._context.set_forkserver_preload(["zk0.executors.preload"])
        multiprocessing.forkserver.ensure_running()

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function in a worker process and hand its (small) result, or its error, back.

        Args:
            function: may be called again where its process, or the fork server, dies.
            arguments: of the function.

        Raises:
            ClientError: it died every time, or for want of memory.
        """
        kills = machine_oom_kills()
        for _ in range(STARTS):
            self.warm_up()
            with ProcessPoolExecutor(1, mp_context=self._context) as pool:
                try:
                    with _main_left_alone():
                        future = pool.submit(function, *arguments)
                except (EOFError, ConnectionError) as error:
                    _fork_server_died(error)
                    continue
                try:
                    return future.result()
                except BrokenProcessPool as error:
                    if machine_oom_kills() > kills:
                        why = "the kernel has killed for want of memory; free some, or lower executor.max_parallel"
                        raise ClientError("out_of_memory", f"{function.__name__}: its process died: {why}") from error
                    logger.warning("the process of {} died: starting another ({})", function.__name__, error)
        raise ClientError("lost", f"{function.__name__}: its process was killed {STARTS} times; is memory short?")

    def run(self, task: ClientTask) -> ClientResult:
        """See `Executor.run`."""
        if (found := find_finished(task)) is not None:
            logger.info("{} of {} in round {} is already done", task.kind, task.client, task.server_round)
            return found
        adopted = _live_worker(task)
        if adopted is not None:
            return self._adopt(task, adopted)
        ended = is_held(task) and wait_until_free(task, self._config.timeout_s)
        if ended and find_finished(task) is not None:
            return self.run(task)  # a container did it: the executor was changed while it worked
        return self._start(task)

    def _start(self, task: ClientTask) -> ClientResult:
        process = self._started(task)
        process.join(self._config.timeout_s)
        if process.exitcode is None:
            _kill_tree(process.pid)
            process.join()
            raise self._timed_out(task)
        exit_code, pid = process.exitcode, process.pid
        process.close()
        survivor = None
        if exit_code == FORK_SERVER_GONE:
            survivor = _process(pid)  # which may have no lock yet
        elif exit_code == HELD_EXIT_CODE:
            survivor = _live_worker(task)
        return _outcome(task, exit_code) if survivor is None else self._adopt(task, survivor)

    def _started(self, task: ClientTask) -> ForkServerProcess:
        """A process that does the task."""
        for _ in range(STARTS):
            self.warm_up()
            name = f"zk0-{task.client}"
            process = self._context.Process(target=work, args=(task.model_dump_json(),), name=name)
            try:
                with _main_left_alone():
                    process.start()
                return process
            except (EOFError, ConnectionError) as error:
                _fork_server_died(error)
        raise ClientError("lost", f"{task.kind} of {task.client!r}: {STARTS} fork servers died; is memory short?")

    def _adopt(self, task: ClientTask, process: psutil.Process) -> ClientResult:
        """Wait for a worker that an orchestrator or fork server left behind: its work is not run twice."""
        logger.info("{} of {} in round {}: adopted PID {}", task.kind, task.client, task.server_round, process.pid)
        deadline = process.create_time() + self._config.timeout_s
        while time.time() < deadline:
            if not _runs(process) and not is_held(task):  # a process that it started may have it still
                return _outcome(task, None)
            time.sleep(ADOPTED_POLL_S)
        _kill_tree(process.pid)
        raise self._timed_out(task)

    def _timed_out(self, task: ClientTask) -> ClientError:
        limit = self._config.timeout_s
        return ClientError(
            "timeout", f"{task.kind} of {task.client!r} took longer than executor.timeout_s = {limit:g} s; it was ended"
        )


def _fork_server_died(error: Exception) -> None:
    """Say so, and give the kernel time to end it: until then it counts as running, and answers nobody."""
    logger.warning("the fork server died: starting another ({})", error)
    time.sleep(RESTART_PAUSE_S)


@contextmanager
def _main_left_alone() -> Iterator[None]:
    """Start a process that does not import this one's main module again, as multiprocessing has every new one do.

    Workers need nothing of it, and a user's script that calls `zk0.run` at its top would begin anew in each of them.
    """
    with _MAIN:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def _live_worker(task: ClientTask) -> psutil.Process | None:
    """The worker that does this task now, whoever started it."""
    return _holder(task) if is_held(task) else None


def _runs(process: psutil.Process) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _holder(task: ClientTask) -> psutil.Process | None:
    """The live worker that holds the task's lock; None where it ended in the meantime, or is in a container."""
    with storage_errors(lock_path(task), "read"):
        text = untrusted.tail(lock_path(task), LONGEST_NAME)
    process = _process(int(text)) if text.isdigit() else None
    return process if process is not None and _has_open(process, lock_path(task)) else None


def _has_open(process: psutil.Process, path: Path) -> bool:
    """Whether a process has a file open: what a lock says of its holder may be a container's word, for any process."""
    try:
        return any(os.path.samestat(Path(file.path).stat(), path.lstat()) for file in process.open_files())
    except (OSError, psutil.Error):
        return False


def _process(pid: int | None) -> psutil.Process | None:
    """A process by its id; None where it is gone."""
    try:
        return None if pid is None else psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def _outcome(task: ClientTask, exit_code: int | None) -> ClientResult:
    """The result that an ended worker left, or a ClientError that says how it died.

    Args:
        task: the work.
        exit_code: of the worker, negative for a signal; None where it is unknown (an adopted worker).
    """
    if (found := find_finished(task)) is not None:
        return found
    if (failure := read_failure(task)) is not None:
        raise failure
    log = client_log(task)
    if exit_code in (None, FORK_SERVER_GONE, -signal.SIGKILL) and killed_for_memory(task.folder):
        raise ClientError(
            "out_of_memory", f"{what(task)}: killed by the kernel, out of memory; {last_words(task.folder)}"
        )
    if exit_code == STORAGE_EXIT_CODE:
        unwritable(task)
    if exit_code is None:
        raise ClientError("lost", f"{what(task)}: the adopted worker ended without a result; see {log}")
    if exit_code < 0:
        name = signal.Signals(-exit_code).name
        raise ClientError("lost", f"{what(task)}: the worker was killed by {name}; see {log}")
    raise ClientError("error", f"{what(task)}: {last_line(log)} (exit code {exit_code}; see {log})")


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
