"""Find a Prefect server, or start one in the background on loopback."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
from loguru import logger
from prefect.settings import get_current_settings

from zk0.errors import BadInputError, Zk0Error

STARTUP_TIMEOUT_S = 180
"""The first start migrates a new database: 35 s on two cores, more on a busy machine."""


def ensure_server() -> str:
    """The API URL of a Prefect server that answers.

    A configured `PREFECT_API_URL` (environment or profile) is used as it is. Without one, a server on the default port
    is reused if it is there, and started in the background if not; `prefect server stop` ends it.

    Raises:
        BadInputError: the configured server does not answer, or the port belongs to something else.
        Zk0Error: the started server did not come up.
    """
    settings = get_current_settings()
    if settings.api.url:
        if not _healthy(settings.api.url):
            raise BadInputError(
                f"PREFECT_API_URL = {settings.api.url!r}: no Prefect server answers there; start it, or unset it "
                "(`unset PREFECT_API_URL`, `prefect config unset PREFECT_API_URL`) and zk0 starts a local one"
            )
        return settings.api.url
    host, port = "127.0.0.1", settings.server.api.port
    url = f"http://{host}:{port}/api"
    if _healthy(url):
        return url
    if _listening(host, port):
        raise BadInputError(
            f"PREFECT_SERVER_API_PORT = {port}: another program listens there; set a free port in that variable"
        )
    _start(host, port, Path(settings.home))
    return url


def ui_url(api_url: str) -> str:
    """The address of the pages for people that belongs to an API URL."""
    return api_url.removesuffix("/").removesuffix("/api")


def _start(host: str, port: int, home: Path) -> None:
    """Start the server in a session of its own, so that Ctrl-C here does not end it.

    Prefect's own `--background` leaves the server in our process group, on pipes that nobody reads. The PID file is
    the one that `prefect server stop` looks for.
    """
    home.mkdir(parents=True, exist_ok=True)
    log = home / "zk0-server.log"
    logger.info("starting a local Prefect server on port {}", port)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", str(port)]
    environment = {key: value for key, value in os.environ.items() if key != "PREFECT_API_URL"}
    with log.open("ab") as output:
        server = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    (home / "server.pid").write_text(str(server.pid))
    deadline = time.monotonic() + STARTUP_TIMEOUT_S
    while time.monotonic() < deadline and server.poll() is None:
        if _healthy(f"http://{host}:{port}/api"):
            return
        time.sleep(0.3)
    raise Zk0Error(f"the local Prefect server did not come up on port {port} within {STARTUP_TIMEOUT_S} s; see {log}")


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url.rstrip('/')}/health", timeout=5, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def _listening(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0
