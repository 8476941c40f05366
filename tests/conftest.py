"""What the tests share: the shipped assets as real datasets, small configs, a real Prefect server."""

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

# Two workers' threads share the cores: a thread that waits for others must not spin. Before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
from benchmarks.service import free_port, small_run
from flows.settings import set_defaults
from zk0.config import RunConfig, validate_config
from zk0.work.executor import STOPPED

set_defaults()  # before any test imports Prefect


def pytest_configure() -> None:
    """A cache for this session alone, and no trace of the shell.

    That starts background jobs with SIGINT ignored; runs that tests start would inherit it, and miss Ctrl-C.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        os.environ["ZK0_CACHE"] = tempfile.mkdtemp(prefix="zk0-test-cache-")
        atexit.register(shutil.rmtree, os.environ["ZK0_CACHE"], ignore_errors=True)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is exhaustive is slow: `-m "not slow"` takes the place of the usual `-m "not exhaustive"`."""
    for item in items:
        if item.get_closest_marker("exhaustive") is not None:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def no_stop_stays() -> Iterator[None]:
    """A stop that a test asked for is of that test alone; in a run's process it is cleared when a run begins."""
    yield
    STOPPED.clear()


@pytest.fixture
def small_config(tmp_path: Path) -> Callable[..., RunConfig]:
    """Make the small run's config with changes: small_config(training__steps=3)."""
    return lambda **changes: validate_config(small_run(tmp_path / "outputs", **changes))


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Make a file system of so many bytes (`64k`, `300m`) that lives in memory."""
    disks: list[Path] = []

    def make(size: str) -> Path:
        disk = tmp_path / f"disk-{size}"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
        if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("needs the right to mount a tmpfs")
        disks.append(disk)
        return disk

    yield make
    for disk in disks:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path, but: int = 0) -> Path:
    """Fill a disk up but for so many bytes; gives the file that does it."""
    filler = disk / "filler"
    block = b"\0" * (1 << 20)
    with filler.open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):  # no space left
            while file.write(block):
                continue
        file.truncate(max(0, file.tell() - but))
    return filler


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
