"""Nothing of ours outlives an orchestrator that was killed, but a fit that the next one adopts."""

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from tests.unit.executors.test_process import LightExecutor
from zk0.config import ExecutorConfig

MARK = "ZK0_TEST_ORPHANS"
SOON_S = 10


def waits(marker: str) -> None:
    """With two processes below it, of both kinds."""
    with subprocess.Popen(["sleep", "120"]):
        multiprocessing.get_context("fork").Process(target=time.sleep, args=(120,)).start()
        Path(marker).touch()
        time.sleep(120)


def holds_the_interpreter(marker: str) -> None:
    Path(marker).touch()
    while True:
        continue


def call_it(function: str, marker: str) -> None:
    LightExecutor(ExecutorConfig()).call(globals()[function], marker)


def start_a_fit(_: str, marker: str) -> None:
    """A worker as `run` starts it, which does not end with its orchestrator."""
    LightExecutor(ExecutorConfig()).started(waits, (marker,), "zk0-fit").join()


def orchestrator(tmp_path: Path, code: str) -> tuple[subprocess.Popen[bytes], str]:
    """A process that was started to do something, once it does; and the mark of all that it starts."""
    mark, marker = uuid4().hex, tmp_path / "at-work"
    started = subprocess.Popen([sys.executable, "-c", code.format(marker=str(marker))], env=os.environ | {MARK: mark})
    deadline = time.monotonic() + 120
    while not marker.exists():
        assert started.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return started, mark


def living(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def soon(true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + SOON_S
    while not true() and time.monotonic() < deadline:
        time.sleep(0.2)
    return true()


@pytest.mark.parametrize("function", ["waits", "holds_the_interpreter"])
def test_a_call_ends_with_its_caller(tmp_path: Path, function: str) -> None:
    code = f"from tests.unit.executors import test_orphans as t; t.call_it({function!r}, {{marker!r}})"
    started, mark = orchestrator(tmp_path, code)
    assert len(living(mark)) >= 4, "orchestrator, fork server, its tracker, the call"
    started.kill()
    started.wait()
    assert soon(lambda: not living(mark)), [process.cmdline() for process in living(mark)]


def test_a_fit_outlives_its_orchestrator_and_the_fork_server_does_not(tmp_path: Path) -> None:
    code = "from tests.unit.executors import test_orphans as t; t.start_a_fit('', {marker!r})"
    started, mark = orchestrator(tmp_path, code)
    (server,) = [
        process
        for process in living(mark)
        if "multiprocessing.forkserver" in " ".join(process.cmdline()) and process.ppid() == started.pid
    ]
    fits = server.children()
    started.kill()
    started.wait()
    try:
        assert soon(lambda: not server.is_running()), server.status()
        assert [fit.is_running() for fit in fits] == [True]
    finally:
        for process in living(mark):
            process.kill()


def test_what_ends_the_fork_server_is_never_imported_by_an_orchestrator() -> None:
    """It would end with whoever started it, such as a shell."""
    code = "import flows.federated_training, zk0.federation.alone, zk0.cli, sys; "
    code += "sys.exit('zk0.executors.forkserver' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
