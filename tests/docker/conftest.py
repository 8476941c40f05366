"""A real Docker engine, and an image that is empty: the machine's own /usr, Python and checkout are mounted into it."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import psutil
import pytest
from docker.models.containers import Container

from benchmarks.containers import IMAGE, containers, docker_changes, make_image, mounts
from benchmarks.service import CLIENTS, CommandLine, small_run
from tests.integration.conftest import zk0
from zk0.config import RunConfig, resolve_path, validate_config

__all__ = ["IMAGE", "mounts", "zk0"]  # the last is a fixture


@dataclass
class Engine:
    """A Docker engine; one of the tests' own can be killed."""

    host: str
    folder: Path | None = None
    """Where an engine of our own keeps its things; None for the machine's."""
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def client(self) -> docker.DockerClient:
        return docker.DockerClient(base_url=self.host, timeout=60)

    def start(self) -> None:
        assert self.folder is not None
        self._forget_dead_containerd()
        # Containers here have no network, so the engine needs neither a bridge nor a firewall. It gets a namespace of
        # its own, because an engine without a bridge removes docker0, which may be that of the machine's engine.
        # SVT-AV1, where a test before this one encoded a video as root, has left this process and its children in real
        # time (SCHED_FIFO), and what is of that kind cannot enter a container's cgroup.
        command = [
            "unshare",
            "--net",
            "chrt",
            "--other",
            "0",
            "dockerd",
            "--bridge=none",
            "--iptables=false",
            "--host",
            self.host,
        ]
        command += ["--data-root", f"{self.folder}/data", "--exec-root", f"{self.folder}/exec"]
        command += ["--pidfile", f"{self.folder}/pid"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not self.answers():
            assert time.monotonic() < deadline, (self.folder / "log").read_text()[-2000:]
            assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
            time.sleep(0.1)

    def _forget_dead_containerd(self) -> None:
        """Where a sandbox's init reaps late, dockerd takes the zombie of its containerd for a live one, and waits."""
        pid_file = Path(f"{self.folder}/exec/containerd/containerd.pid")
        if not pid_file.is_file():
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(int(pid_file.read_text()))
            self.until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, 60)
        pid_file.unlink(missing_ok=True)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(60)

    def answers(self) -> bool:
        """Whether the engine is ready; without the SDK, which leaves its socket open where it is not."""
        with socket.socket(socket.AF_UNIX) as raw:
            try:
                raw.connect(self.host.removeprefix("unix://"))
                raw.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b" 200 " in raw.recv(64)
            except OSError:
                return False

    def containers(self, **labels: str) -> list[Container]:
        """The executor's containers, running or not."""
        client = self.client
        found = containers(client, **labels)
        client.close()
        return found

    def until(self, seen: Callable[[], Any], timeout_s: float = 120) -> Any:
        """Wait until something is seen; gives it."""
        deadline = time.monotonic() + timeout_s
        while not (found := seen()):
            assert time.monotonic() < deadline, "not seen in time"
            time.sleep(0.1)
        return found


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine of the tests' own where they may start one, else the machine's; with the image in it."""
    if os.getuid() == 0 and all(map(shutil.which, ("dockerd", "unshare", "chrt"))):
        folder = tmp_path_factory.mktemp("engine")
        made = Engine(f"unix://{folder}/docker.sock", folder)
        try:
            made.start()
        except AssertionError as error:
            pytest.skip(f"dockerd cannot run here: {str(error)[-500:]}")
    else:
        made = Engine(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"))
        if not made.answers():
            pytest.skip("no Docker engine answers, and none can be started here; see scripts/docker_engine.sh")
    client = made.client
    make_image(client)
    client.close()
    yield made
    if made.process is not None:
        made.stop()


@pytest.fixture
def docker_host(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The engine, for executors in this process."""
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    return engine


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clients' datasets, each in a folder of its own outside the package."""
    folder = tmp_path_factory.mktemp("recordings")
    for name in CLIENTS:
        shutil.copytree(resolve_path(f"asset:datasets/{name}"), folder / name)
    return folder


@pytest.fixture
def docker_config(tmp_path: Path, recordings: Path) -> Callable[..., RunConfig]:
    """Make the small run's config with the Docker executor: docker_config(training__steps=3)."""

    def make(**changes: Any) -> RunConfig:
        data = small_run(tmp_path / "outputs", **docker_changes(), **changes)
        data["clients"] = [{"name": name, "repo_id": f"zk0/{name}", "root": str(recordings / name)} for name in CLIENTS]
        return validate_config(data)

    return make


def command_line_config(zk0: CommandLine, **changes: Any) -> Path:
    """The small run's config file with the Docker executor; same digest as `zk0.config(**changes)`."""
    return zk0.config(**docker_changes(), **changes)
