"""Each piece of work in a process of its own, forked from a server that has the heavy imports done.

What this does not cover: it is no sandbox. A worker has the user's rights, network and memory; the Docker executor is
for isolation.
"""

import atexit
import multiprocessing
import multiprocessing.forkserver
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from multiprocessing.context import ForkServerProcess
from types import ModuleType
from typing import Any, ClassVar

import psutil
from loguru import logger

from zk0.config import ExecutorConfig
from zk0.errors import ClientError
from zk0.executors.call import STARTS, call
from zk0.executors.death import FORK_SERVER_GONE, outcome
from zk0.executors.living import kill_tree, live_worker, process_of, runs
from zk0.executors.stopping import go_on, stop_processes, stoppable
from zk0.executors.worker import HELD_EXIT_CODE, work
from zk0.files import FORK_SERVER_OF
from zk0.files.cache import forget
from zk0.work.executor import STOPPED
from zk0.work.lock import is_held, wait_until_free
from zk0.work.log import what
from zk0.work.records import ClientResult, ClientTask
from zk0.work.results import find_finished

ADOPTED_POLL_S = 0.5
RESTART_PAUSE_S = 0.5
"""A fork server that is being killed counts as running for a moment, and answers nobody."""
LATER_S = 60.0
"""After its time limit, in seconds, a worker ends itself: nobody is left who would have done it."""
_MAIN = threading.Lock()


class ProcessExecutor:
    """Runs tasks in forked processes whose memory goes back to the system when they end.

    Importing torch, LeRobot and transformers takes 10-30 s; the fork server does it once, and each worker starts from
    there in well under a second. The orchestrator itself never imports them.
    """

    preload: ClassVar[tuple[str, ...]] = ("zk0.executors.preload",)
    """What the fork server imports."""

    def __init__(self, config: ExecutorConfig) -> None:
        self._config = config
        self._context = multiprocessing.get_context("forkserver")

    def warm_up(self) -> None:
        """Start the fork server, so that its imports overlap with whatever the caller does next."""
        os.environ[FORK_SERVER_OF] = str(os.getpid())
        self._context.set_forkserver_preload(["zk0.executors.forkserver", *self.preload])
        _keeper(os.getpid()).submit(multiprocessing.forkserver.ensure_running).result()

    def call[**P, R](self, function: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
        """Call a function in a worker process and hand its (small) result, or its error, back: see `call.call`."""
        return call(self, function, *arguments, **named)

    def started(self, target: Callable[..., None], arguments: tuple[Any, ...], name: str) -> ForkServerProcess:
        """A process that is at work on something.

        Args:
            target: what it calls.
            arguments: of it.
            name: of the process.

        Raises:
            ClientError: none can be started.
        """
        why: object = None
        for _ in range(STARTS):
            process = self._context.Process(target=target, args=arguments, name=name)
            try:
                self.warm_up()
                with _main_left_alone():
                    process.start()
                return process
            except (EOFError, OSError) as error:
                why = f"{type(error).__name__}: {error}".removesuffix(": ")
                if STOPPED.is_set():
                    break
                logger.warning("the fork server does not start a process: starting another ({})", why)
                time.sleep(RESTART_PAUSE_S)
        raise ClientError("lost", f"{name}: no process can be started, tried {STARTS} times: {why}")

    def run(self, task: ClientTask) -> ClientResult:
        """See `Executor.run`."""
        if (found := find_finished(task)) is not None:
            logger.info("{} of {} in round {} is already done", task.kind, task.client, task.server_round)
            return found
        go_on(task)
        adopted = live_worker(task)
        if adopted is not None:
            return self._adopt(task, adopted)
        ended = is_held(task) and wait_until_free(task, self._config.timeout_s)
        if ended and find_finished(task) is not None:
            return self.run(task)  # a container did it: the executor was changed while it worked
        return self._start(task)

    def stop(self, run_dir: str) -> None:
        """See `Stoppable.stop`."""
        stop_processes(run_dir)

    def _start(self, task: ClientTask) -> ClientResult:
        go_on(task)
        arguments = (task.model_dump_json(), self._config.timeout_s + LATER_S)
        process = self.started(work, arguments, f"zk0-{task.client}")
        with stoppable(task, process.pid):
            process.join(self._config.timeout_s)
        if process.exitcode is None:
            kill_tree(process.pid)
            process.join()
            raise self._timed_out(task)
        exit_code, pid = process.exitcode, process.pid
        process.close()
        survivor = None
        if exit_code == FORK_SERVER_GONE:
            survivor = process_of(pid)  # which may have no lock yet
        elif exit_code == HELD_EXIT_CODE:
            survivor = live_worker(task)
        return outcome(task, exit_code) if survivor is None else self._adopt(task, survivor)

    def _adopt(self, task: ClientTask, process: psutil.Process) -> ClientResult:
        """Wait for a worker that an orchestrator or fork server left behind: its work is not run twice."""
        logger.info("{} of {} in round {}: adopted PID {}", task.kind, task.client, task.server_round, process.pid)
        deadline = process.create_time() + self._config.timeout_s
        with stoppable(task, process.pid):
            while time.time() < deadline:
                if not runs(process) and not is_held(task):  # a process that it started may have it still
                    return outcome(task, None)
                time.sleep(ADOPTED_POLL_S)
        kill_tree(process.pid)
        raise self._timed_out(task)

    def _timed_out(self, task: ClientTask) -> ClientError:
        limit = self._config.timeout_s
        return ClientError("timeout", f"{what(task)} took longer than executor.timeout_s = {limit:g} s; it was ended")


@cache
def _keeper(_: int) -> ThreadPoolExecutor:
    """The thread of this process that starts the fork server: the server ends with it, see `forkserver`."""
    atexit.register(forget, os.getpid())
    return ThreadPoolExecutor(1, "zk0-fork-server")


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
