"""What the tests share: the shipped assets as real datasets, small configs, a real Prefect server."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.service import free_port, small_run
from zk0.config import RunConfig, validate_config


@pytest.fixture
def small_config(tmp_path: Path) -> Callable[..., RunConfig]:
    """Make the small run's config with changes: small_config(training__steps=3)."""
    return lambda **changes: validate_config(small_run(tmp_path / "outputs", **changes))


@pytest.fixture(scope="session")
def prefect_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A real Prefect server of this session's own; gives the environment of the processes that use it."""
    home = tmp_path_factory.mktemp("prefect")
    port = free_port()
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")},
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "server.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        _wait_until_healthy(environment["PREFECT_API_URL"], server, home / "server.log")
        yield environment
    finally:
        server.terminate()
        server.wait(30)


def _wait_until_healthy(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(f"{url}/health", timeout=2, trust_env=False).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.3)
    raise AssertionError(f"no Prefect server: {log.read_text()[-2000:]}")
