"""The command line as a user runs it, and finished runs that several tests look at."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import tomli_w

from tests.conftest import small_run
from zk0.records import ClientResult


@dataclass
class CommandLine:
    """`zk0` in a folder of its own, against the session's Prefect server."""

    folder: Path
    environment: dict[str, str] = field(repr=False)

    @property
    def outputs(self) -> Path:
        return self.folder / "outputs"

    def config(self, **changes: Any) -> Path:
        """Write the small run's config with changes to a TOML file."""
        data = small_run(self.outputs, **changes)
        name = hashlib.sha256(repr(sorted(changes.items())).encode()).hexdigest()[:8]
        path = self.folder / f"config-{name}.toml"
        path.write_text(tomli_w.dumps(data))
        return path

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "zk0.cli", *map(str, arguments)],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str | Path, exit_code: int = 0) -> str:
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=400)
        assert process.returncode == exit_code, output
        return output

    def start_until(
        self, seen: Callable[[], object], *arguments: str | Path, timeout_s: float = 300
    ) -> subprocess.Popen[str]:
        """Start a command and come back as soon as `seen` holds."""
        process = self.start(*arguments)
        deadline = time.monotonic() + timeout_s
        while not seen():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "not seen in time"
            time.sleep(0.02)
        return process

    def digest(self, name: str, server_round: int) -> str:
        """SHA-256 of a round's global tensors."""
        path = self.outputs / name / "rounds" / f"{server_round:04d}" / "global.safetensors"
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def result(self, name: str, server_round: int, client: str, kind: str = "train") -> ClientResult:
        path = self.outputs / name / "rounds" / f"{server_round:04d}" / "clients" / client / f"{kind}.json"
        return ClientResult.model_validate_json(path.read_text())

    def info(self, name: str) -> dict[str, Any]:
        """The run's run.json."""
        return dict(json.loads((self.outputs / name / "run.json").read_text()))

    def metrics(self, name: str) -> list[dict[str, Any]]:
        lines = (self.outputs / name / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL, and nothing else: its workers are left to themselves."""
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()  # reading to its end would wait for the workers


def worker_of(folder: Path, kind: str) -> psutil.Process | None:
    """The live worker that holds a task's lock."""
    lock = folder / f"{kind}.lock"
    text = lock.read_text() if lock.is_file() else ""
    return psutil.Process(int(text)) if text and psutil.pid_exists(int(text)) else None


@pytest.fixture(scope="session")
def zk0(tmp_path_factory: pytest.TempPathFactory, prefect_environment: dict[str, str]) -> CommandLine:
    environment = {**prefect_environment, "PYTHONPATH": str(Path(__file__).parents[2])}
    return CommandLine(tmp_path_factory.mktemp("zk0"), environment)


@pytest.fixture(scope="session")
def reference(zk0: CommandLine) -> str:
    """An undisturbed run; gives what it printed. Its name is `reference`."""
    return zk0.run("run", zk0.config(), "--name", "reference")
