"""Find a Prefect server, or start one in the background on loopback."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from loguru import logger
from prefect.settings import get_current_settings

from flows.service_logs import SERVER_LOG, keep_within_bounds, rotate
from zk0.errors import BadInputError, Zk0Error
from zk0.files.locks import taken

LOOPBACK = "127.0.0.1"
LOGGING = Path(__file__).parents[1] / "deployments" / "server-logging.yaml"
"""How a server of ours logs, where a person has no file of their own."""
STARTUP_TIMEOUT_S = 180
"""The first start migrates a new database: 35 s on two cores, more on a busy machine."""
JOINED_TIMEOUT_S = 15
"""A configured server that was there when it was looked for, and is not now, has probably died."""
START_AGAIN_AFTER_S = 10.0
"""Pause between two starts of a local server whose process ends at once."""


@dataclass
class _Local:
    """A server on this machine, which is ours to start."""

    host: str
    port: int
    home: Path
    """Where it keeps its files."""
    process: subprocess.Popen[bytes] | None = None
    """The last one that this process started there."""
    started_at: float = float("-inf")

    @property
    def lock(self) -> Path:
        """Held by the server's process as long as it lives."""
        return self.home / f"zk0-server-{self.port}.lock"

    def is_starting(self) -> bool:
        """Whether a process that we started may yet come to listen, or another one would end as fast."""
        lives = self.process is not None and self.process.poll() is None
        return lives or time.monotonic() - self.started_at < START_AGAIN_AFTER_S


_local: dict[str, _Local] = {}
"""API URL -> the local server there."""
_starting = threading.Lock()
"""One thread of a process looks and starts at a time."""


@dataclass
class Server:
    """A Prefect server that answers, or will soon."""

    url: str
    """Its API URL."""
    started: subprocess.Popen[bytes] | None = None
    """The process, where it is we who started it."""
    log: Path | None = None
    """Where that process writes."""

    def wait(self) -> str:
        """Come back when the server answers; gives its API URL.

        Raises:
            Zk0Error: the started server did not come up.
        """
        deadline = time.monotonic() + (STARTUP_TIMEOUT_S if self.url in _local else JOINED_TIMEOUT_S)
        while not answers(self.url):
            late = time.monotonic() > deadline
            if self.started is not None and (late or self.started.poll() is not None):
                raise Zk0Error(f"the Prefect server at {self.url} did not come up; see {self.log}")
            if late:
                raise Zk0Error(f"the Prefect server at {self.url} was there and is gone; try again")
            bring_back(self.url)
            time.sleep(0.2)
        return self.url

    def answers(self) -> bool:
        """Whether it answers now."""
        return answers(self.url)

    def discard(self) -> None:
        """End a server that we started for a run that does not take place, unless somebody else uses it by now."""
        if self.started is not None and not _has_guests(self.started.pid):
            self.started.terminate()


def ensure_server(bind: str = LOOPBACK) -> Server:
    """A Prefect server: the configured one, the local one that is there, or a new one in the background.

    A configured `PREFECT_API_URL` (environment or profile) is used as it is. Without one, a server on the default port
    is reused if it is there, and started if not; it stays, for the pages of finished runs, until `prefect server stop`.
    Comes back at once: `Server.wait` waits until it answers.

    Args:
        bind: the address that a new server listens on; it is spoken to over loopback where that serves.

    Raises:
        BadInputError: the configured server does not answer, or the port belongs to something else.
    """
    settings = get_current_settings()
    if settings.api.url:
        if not answers(settings.api.url):
            if answers(longer := settings.api.url.rstrip("/") + "/api"):
                raise BadInputError(
                    f"PREFECT_API_URL = {settings.api.url!r}: that is the address of the pages; set it to {longer!r}"
                )
            raise BadInputError(
                f"PREFECT_API_URL = {settings.api.url!r}: no Prefect server answers there; start it, or unset it "
                "(`unset PREFECT_API_URL`, `prefect config unset PREFECT_API_URL`) and zk0 starts a local one"
            )
        return Server(settings.api.url)
    host = LOOPBACK if bind in ("0.0.0.0", "::", "localhost") else bind  # noqa: S104 - compared, not bound
    port = settings.server.api.port
    url = f"http://{host}:{port}/api"
    _local[url] = _Local(bind, port, Path(settings.home))
    if answers(url):
        keep_within_bounds(Path(settings.home))
        return Server(url)
    if _listening(host, port) and not _held(_local[url].lock):  # else it is one of ours, and busy
        raise BadInputError(
            f"PREFECT_SERVER_API_PORT = {port}: another program listens there; set a free port in that variable"
        )
    return _start(url)


def ui_url(api_url: str) -> str:
    """The address of the pages for people: PREFECT_UI_URL where that is set, else what belongs to an API URL."""
    return (get_current_settings().ui_url or api_url).removesuffix("/").removesuffix("/api")


def _start(url: str) -> Server:
    """Start the server in a session of its own, so that Ctrl-C here does not end it.

    Prefect's own `--background` leaves the server in our process group, on pipes that nobody reads. The PID file is
    the one that `prefect server stop` looks for. Of several processes one starts it: it gives the server the lock.
    """
    local = _local[url]
    local.home.mkdir(parents=True, exist_ok=True)
    with local.lock.open("ab") as lock:
        if not _free(lock.fileno()):
            return Server(url)
        log = local.home / SERVER_LOG
        rotate(log)
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", local.host, "--port", str(local.port)]
        environment = {key: value for key, value in os.environ.items() if key != "PREFECT_API_URL"}
        if not get_current_settings().logging.config_path.exists():
            environment["PREFECT_LOGGING_SETTINGS_PATH"] = str(LOGGING)
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=(lock.fileno(),),
            )
    local.process, local.started_at = process, time.monotonic()
    (local.home / "server.pid").write_text(str(process.pid))
    return Server(url, process, log)


def answers(url: str) -> bool:
    """Whether a Prefect server answers at an API URL now: any web server may say that something is there."""
    try:
        answer = httpx.get(f"{url.rstrip('/')}/health", timeout=5, trust_env=False)
        return answer.is_success and answer.json() is True
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):  # what answers is no JSON
        return False


def bring_back(url: str) -> None:
    """Start the local server again that `ensure_server` found or started; one that was configured is left alone."""
    with _starting:
        local = _local.get(url)
        if local is None or local.is_starting() or _listening(local.host, local.port):
            return
        if _start(url).started is not None:
            logger.warning("the Prefect server at {} is gone: starting it again", url)


def _listening(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


def _held(lock: Path) -> bool:
    with contextlib.suppress(FileNotFoundError), lock.open("rb") as file:
        return not _free(file.fileno())
    return False


def _free(lock: int) -> bool:
    """Whether no server of ours lives here; a file system without locks says nothing of it."""
    try:
        return taken(lock)
    except OSError:
        return True


def _has_guests(pid: int) -> bool:
    """Whether a server speaks with other processes than this one: each run keeps a connection for its events."""
    try:
        here = {link.laddr for link in psutil.Process().net_connections("tcp")}
        served = psutil.Process(pid).net_connections("tcp")
    except psutil.Error:
        return False
    return any(link.status == psutil.CONN_ESTABLISHED and link.raddr not in here for link in served)
