"""`zk0 serve`: Prefect server, worker, deployments and recovery in one command, brought back whenever a part dies."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import psutil
from loguru import logger
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, get_current_settings, temporary_settings

from flows import missed, recovery, register
from flows.alive import worker_name
from flows.history import History
from flows.process import module_command
from flows.server import Server, ensure_server, ui_url
from flows.service_logs import WORKER_LOG, keep_within_bounds
from zk0.errors import BadInputError, Zk0Error
from zk0.logs.setup import TERSE_FORMAT
from zk0.runs.lock import locked

SWEEP_S = 3.0
"""Pause between two looks at server, worker and runs."""
MARK = "ZK0_SERVE"
"""Environment variable of everything that a service started, directly or not: its Prefect home."""
PASSING = (httpx.HTTPError, PrefectException, OSError)
"""What a server that has just died answers."""
SILENT_S = 60.0
"""So long a server whose process lives may be too busy to answer."""
WORKER_STOP_S = 20.0
STOP_S = 10.0


@dataclass(frozen=True)
class Options:
    """What `zk0 serve` was asked for."""

    config: str | None
    """The config of the scheduled runs; that of `deployments/prefect.yaml` when None."""
    outputs: Path
    """The folder of the runs."""
    host: str
    """Address that a started server listens on."""
    notify: str | None = None
    """A Prefect notification block, `type/name`."""
    history_days: float = 30.0
    """How long Prefect knows of a run that is over; zero: for ever."""


class Service:
    """Everything that watches over runs, until a signal ends it."""

    def __init__(self, options: Options, say: Callable[[str], None]) -> None:
        """Prepare; nothing is started before `run`.

        Args:
            options: what was asked for.
            say: tells the person at the terminal.
        """
        self._options = options
        self._say = say
        self._home = Path(get_current_settings().home)
        self._stop = threading.Event()
        self._server: Server | None = None
        self._answered = 0.0
        self._worker: subprocess.Popen[bytes] | None = None
        self._registered = False
        self._pool = ""
        self._memory = recovery.Memory()
        self._history = History(timedelta(days=options.history_days))

    def run(self) -> None:
        """Serve until SIGTERM or Ctrl-C, then end every process that was started.

        Raises:
            BadInputError: another `zk0 serve` has this Prefect home, or a setting cannot be used.
        """
        logger.configure(handlers=[{"sink": sys.stderr, "level": "INFO", "format": TERSE_FORMAT}])
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup
                signal.signal(number, lambda *_: self._stop.set())
        with self._only_one():
            os.environ[MARK] = str(self._home)
            try:
                self._server = ensure_server(self._options.host)
                self._end_left_over_workers()
                self._server.wait()
                self._answered = time.monotonic()
                with contextlib.suppress(*PASSING), self._api():  # `_look` does it again
                    self._register()
                self._say(f"Prefect UI: {ui_url(self._server.url)}\nruns: {self._options.outputs}\nCtrl-C ends it")
                while not self._stop.is_set():
                    self._look()
                    self._stop.wait(SWEEP_S)
            finally:
                self._end()

    def _look(self) -> None:
        """Bring back what died, and put back the runs that need it; what does not work now is tried again soon."""
        keep_within_bounds(self._home)
        try:
            if self._server is None or self._is_gone(self._server):
                self._server = self._bring_server_back()
            with self._api():
                if not self._registered:
                    self._register()
                with get_client(sync_client=True) as client:
                    if self._worker is None or self._worker.poll() is not None:
                        self._skip_missed(client)  # before a worker sees all of them at once
                        self._worker = self._start_worker()
                    self._registered = recovery.sweep(client, self._options.outputs, self._memory, self._pool)
                    self._history.prune(client)
        except (Zk0Error, *PASSING) as error:
            logger.warning("zk0 serve: {}: {}", type(error).__name__, error)

    def _is_gone(self, server: Server) -> bool:
        """Whether a server must be started again; one that lives may be too busy to answer, and would lose time."""
        if server.answers():
            self._answered = time.monotonic()
            return False
        lives = server.started is not None and server.started.poll() is None
        return not lives or time.monotonic() - self._answered > SILENT_S

    def _bring_server_back(self) -> Server:
        logger.warning("the Prefect server does not answer: starting it")
        if self._server is not None and self._server.started is not None:
            _end_process(self._server.started, STOP_S)
        server = ensure_server(self._options.host)
        server.wait()
        self._answered = time.monotonic()
        return server

    def _register(self) -> None:
        with get_client(sync_client=True) as client:
            self._pool = register.register(client, self._options.config, self._options.outputs)
            register.register_automations(client, self._options.notify)
        self._registered = True

    @staticmethod
    def _skip_missed(client: SyncPrefectClient) -> None:
        deployment = register.deployment_id(client)
        if deployment is not None:
            missed.skip_missed(client, deployment)

    def _start_worker(self) -> subprocess.Popen[bytes]:
        name = worker_name()
        command = module_command(
            "prefect", "worker", "start", "--type", "process", "--pool", self._pool, "--name", name
        )
        assert self._server is not None
        environment = {**os.environ, "PREFECT_API_URL": self._server.url}
        with (self._home / WORKER_LOG).open("ab") as log:
            return subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    @contextlib.contextmanager
    def _api(self) -> Iterator[None]:
        assert self._server is not None
        # With the retries of a flow, one call to a server that has died would last for minutes, and nobody starts it.
        with temporary_settings({PREFECT_API_URL: self._server.url, PREFECT_CLIENT_MAX_RETRIES: 1}):
            yield

    @contextlib.contextmanager
    def _only_one(self) -> Iterator[None]:
        with (self._home / "zk0-serve.lock").open("a+") as lock:
            if not locked(lock.fileno(), self._home):
                lock.seek(0)
                raise BadInputError(
                    f"zk0 serve runs already, as process {lock.read() or 'unknown'}, for PREFECT_HOME = {self._home}; "
                    "end that one first, or set another PREFECT_HOME and --port"
                )
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield

    def _end_left_over_workers(self) -> None:
        """A service that was killed leaves its worker; the flow runs that go on under it are left alone."""
        for process in self._started_by_us():
            with contextlib.suppress(psutil.Error):
                if {"worker", "start"} <= set(process.cmdline()):
                    logger.info("ending the worker of an earlier zk0 serve, process {}", process.pid)
                    process.kill()

    def _end(self) -> None:
        """End the worker, which ends its flow runs; then whatever is left; the server last."""
        if self._server is not None:  # else it has served nothing
            self._say("ending: runs that are under way go on with the next `zk0 serve`")
        if self._worker is not None:
            _end_process(self._worker, WORKER_STOP_S)
        ours = self._started_by_us()
        servers = [process for process in ours if _is_server(process)]
        _end_all([process for process in ours if process not in servers])
        _end_all(servers)
        if self._server is not None and self._server.started is not None:
            self._server.started.wait()

    def _started_by_us(self) -> list[psutil.Process]:
        """What descends from a service of this home: server, worker, flow runs, clients; orphans too."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == str(self._home) and process.pid != os.getpid():
                    found.append(process)
        return found


def _is_server(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        words = process.cmdline()
        return {"server", "start"} <= set(words) or "uvicorn" in words
    return False


def _end_all(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=STOP_S)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()


def _end_process(process: subprocess.Popen[bytes], patience_s: float) -> None:
    process.terminate()
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
