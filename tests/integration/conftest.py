"""The command line as a user runs it, and finished runs that several tests look at."""

import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from benchmarks.service import CommandLine

CANARY = "hf_canaryCANARYcanaryCANARY0123456789"
"""A token of the hub: it must be in nothing that a run writes or says."""


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
    environment = {**prefect_environment, "PYTHONPATH": str(Path(__file__).parents[2]), "HF_TOKEN": CANARY}
    environment |= {"WANDB_API_KEY": CANARY, "MLFLOW_TRACKING_PASSWORD": CANARY}
    return CommandLine(tmp_path_factory.mktemp("zk0"), environment)


@pytest.fixture(scope="session")
def reference(zk0: CommandLine) -> str:
    """An undisturbed run; gives what it printed. Its name is `reference`."""
    return zk0.run("run", zk0.config(report__joint_charts=True), "--name", "reference")
