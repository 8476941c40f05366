"""What the tests share: the shipped assets as real datasets, small configs, a real Prefect server."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from zk0.config import RunConfig, validate_config

CLIENTS = ("kitchen", "workshop")


def small_run(outputs: Path, **changes: Any) -> dict[str, Any]:
    """A run of two shipped clients that takes seconds: two rounds of two steps; `changes` are dotted keys."""
    data: dict[str, Any] = {
        "seed": 7,
        "outputs_dir": str(outputs),
        "federation": {"num_rounds": 2, "min_train_clients": 2},
        "clients": [{"name": name, "repo_id": f"zk0/{name}", "root": f"asset:datasets/{name}"} for name in CLIENTS],
        "policy": {"path": "asset:base", "device": "cpu"},
        "peft": {"r": 4, "lora_alpha": 8},
        "training": {"steps": 2, "batch_size": 4, "lr": 1e-3},
        "data": {"normalization": "base"},
        "evaluation": {"frame_stride": 24, "holdout_episodes": 2},
        "executor": {"max_parallel": 2, "retry_delay_s": 0.1},
        "memory": {"probe": False},  # some seconds; it has tests of its own
    }
    for key, value in changes.items():
        node = data
        *parents, last = key.split("__")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return data


@pytest.fixture
def small_config(tmp_path: Path) -> Callable[..., RunConfig]:
    """Make the small run's config with changes: small_config(training__steps=3)."""
    return lambda **changes: validate_config(small_run(tmp_path / "outputs", **changes))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
