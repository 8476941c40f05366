"""A command with all that it starts: wall time and processor time, of processes too that outlive it."""

import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import psutil

PR_SET_CHILD_SUBREAPER = 36
"""Of Linux' `prctl`: orphans below this process become its children, and what they used is counted with it."""


class Metered(NamedTuple):
    """What a command took."""

    wall_s: float
    cpu_s: float
    """Of the command and all its descendants."""
    code: int
    output: str


def metered(command: Sequence[str], environment: Mapping[str, str], folder: str) -> Metered:
    """Run a command to its end, and end what it leaves behind.

    Args:
        command: the program and its arguments.
        environment: all of it.
        folder: where it runs.
    """
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        command,
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    wall_s = time.perf_counter() - started
    for left in psutil.Process().children():
        with suppress(psutil.Error):
            left.send_signal(signal.SIGTERM)
            left.wait(30)
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if done.returncode:
        sys.stderr.write(done.stdout)
    return Metered(wall_s, cpu_s, done.returncode, done.stdout)
