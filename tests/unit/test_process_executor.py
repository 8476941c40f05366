"""zk0.executors.process: a call survives the death of its process and of the fork server."""

import multiprocessing
import os
import signal
import time
from multiprocessing import forkserver
from pathlib import Path

import pytest

from zk0.config import ExecutorConfig
from zk0.errors import ClientError
from zk0.executors.process import ProcessExecutor


class LightExecutor(ProcessExecutor):
    """Its fork server imports nothing beforehand."""

    def warm_up(self) -> None:
        multiprocessing.set_forkserver_preload([])
        forkserver.ensure_running()


def kill_once(marker: Path, victim: str) -> str:
    if not marker.exists():
        marker.touch()
        os.kill(os.getppid() if victim == "fork server" else os.getpid(), signal.SIGKILL)
        time.sleep(30)
    return "done"


def kill_always() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("victim", ["fork server", "itself"])
def test_a_call_is_made_again_when_its_process_died(tmp_path: Path, victim: str) -> None:
    assert LightExecutor(ExecutorConfig()).call(kill_once, tmp_path / "marker", victim) == "done"


def test_a_call_that_always_dies_is_given_up() -> None:
    with pytest.raises(ClientError, match="killed 3 times"):
        LightExecutor(ExecutorConfig()).call(kill_always)
