"""Ctrl-C that reaches the orchestrator alone, as in a notebook or by `kill -INT`: its workers hear nothing of it."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from benchmarks.service import CommandLine
from tests.unit.executors.test_orphans import MARK, living, soon

pytestmark = pytest.mark.slow

SCRIPT = """
import sys, zk0
try:
    zk0.run(sys.argv[1], name="interrupted-here")
except KeyboardInterrupt:
    print("interrupted", zk0.open_run(sys.argv[2]).finished, flush=True)
sys.stdin.read()
sys.exit(130)
"""
"""As a notebook: it lives on."""
TRACKER = "multiprocessing.resource_tracker"
"""Python's own; it lives for as long as the process that has used multiprocessing."""


@pytest.mark.parametrize("how", ["zk0 run", "zk0.run"])
def test_the_work_ends_with_the_orchestrator(zk0: CommandLine, how: str) -> None:
    config = zk0.config(training__steps=3000)
    zk0.environment[MARK] = uuid4().hex
    name = "interrupted-there" if how == "zk0 run" else "interrupted-here"
    folder = zk0.outputs / name
    if how == "zk0 run":
        begun = zk0.start_until(lambda: trains(folder), "run", config, "--name", name)
    else:
        begun = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(config), str(folder)],
            cwd=zk0.folder,
            env=zk0.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        while not trains(folder):
            assert begun.poll() is None, begun.communicate()[0]
    os.kill(begun.pid, signal.SIGINT)
    if how == "zk0.run":
        assert soon(lambda: left_beside(begun.pid, zk0.environment[MARK]) == []), "a worker or fork server"
    output, _ = begun.communicate(timeout=30)
    assert begun.returncode == 130, output
    assert soon(lambda: living(zk0.environment[MARK]) == []), "a worker, fork server or tracker"
    del zk0.environment[MARK]
    assert "interrupted by" in zk0.run("status", name, "--outputs", zk0.outputs)


def left_beside(pid: int, mark: str) -> list[psutil.Process]:
    """What lives beside a process, but for Python's tracker; what ends meanwhile does not."""
    found = []
    for process in living(mark):
        with contextlib.suppress(psutil.Error):
            if process.pid != pid and not any(TRACKER in word for word in process.cmdline()):
                found.append(process)
    return found


def trains(folder: Path) -> bool:
    return bool(list(folder.glob("rounds/0001/clients/*/progress.json")))
