"""What an ended container left: its result, or a ClientError that says how it died."""

import signal
from collections.abc import Mapping
from typing import Any

from zk0.errors import ClientError
from zk0.executors.docker.settings import OOM_KILLS_LABEL
from zk0.executors.worker import STORAGE_EXIT_CODE
from zk0.memory.cgroup import machine_oom_kills
from zk0.memory.samples import read_samples
from zk0.work.failure import check_writable, crash, read_failure
from zk0.work.log import client_log, end_of, last_line, what
from zk0.work.records import ClientResult, ClientTask
from zk0.work.results import find_finished

TIMED_OUT = 128 + signal.SIGALRM
"""Exit code of a worker that ended itself at its time limit, which no orchestrator was there to keep."""
KILLED = 128 + signal.SIGKILL
NEARLY_FULL = 80.0
"""Percent of the machine's memory in use; between two samples a step may take the rest."""


def timed_out(task: ClientTask, limit_s: float) -> ClientError:
    """The error of work that took too long."""
    message = f"{what(task)} took longer than executor.timeout_s = {limit_s:g} s; it was ended"
    return ClientError("timeout", message)


def outcome(task: ClientTask, attributes: Mapping[str, Any], limit_s: float) -> ClientResult:
    """The result that an ended container left.

    Args:
        task: the work.
        attributes: of the container, as the engine gives them; empty where it is gone.
        limit_s: executor.timeout_s, in seconds.

    Raises:
        ClientError: there is none.
        StorageError: there is none, and we cannot write the run directory either; a container's word is not enough.
    """
    if (found := find_finished(task)) is not None:
        return found
    log = client_log(task)
    if not attributes:
        raise ClientError("lost", f"{what(task)}: its container was removed by someone; see {log}")
    state = attributes["State"]
    if state["OOMKilled"]:
        raise ClientError(
            "out_of_memory",
            f"{what(task)}: ended by the kernel at its container's limit of {_limit_gib(attributes):.2f} GiB "
            "(executor.docker.mem_limit)",
        )
    if (failure := read_failure(task)) is not None:
        raise failure if isinstance(failure, ClientError) else _alone(task, str(failure))
    code = int(state["ExitCode"])
    if code == KILLED and _machine_ran_out(task, attributes):
        raise ClientError(
            "out_of_memory",
            f"{what(task)}: ended by the kernel, for the machine ran out of memory before the container reached its "
            f"limit of {_limit_gib(attributes):.2f} GiB (executor.docker.mem_limit)",
        )
    if code == STORAGE_EXIT_CODE:
        raise _alone(task, f"{what(task)}: {last_line(log)} (exit code {code}; see {log})")
    if code == TIMED_OUT:
        raise timed_out(task, limit_s)
    if state["Error"]:
        raise ClientError("error", f"{what(task)}: its container failed: {' '.join(state['Error'].split())}")
    if code > 128 and code - 128 in set(signal.Signals):
        raise _ended_by(task, code - 128)
    said = f"its container ended without a word of why (exit code {code}); its log's last line: {last_line(log)}"
    raise ClientError("error", f"{what(task)}: {said}; see {log}")


def _ended_by(task: ClientTask, number: int) -> ClientError:
    """The error of a container that a signal ended."""
    log = client_log(task)
    if (crashed := crash(number, end_of(log))) is not None:
        return ClientError("error", f"{what(task)}: {crashed}; see {log}")
    return ClientError("lost", f"{what(task)}: its container was ended by {signal.Signals(number).name}; see {log}")


def _alone(task: ClientTask, words: str) -> ClientError:
    """The error of a container that says that the run directory cannot be used, where we can write it.

    Raises:
        StorageError: we cannot.
    """
    check_writable(task)
    return ClientError("error", f"{words}; here the run directory can be written, so only this work has failed")


def _limit_gib(attributes: Mapping[str, Any]) -> float:
    return float(attributes["HostConfig"]["Memory"]) / 2**30


def _machine_ran_out(task: ClientTask, attributes: Mapping[str, Any]) -> bool:
    """Whether the kernel killed for want of memory on the machine, of which the engine need not tell.

    It did so somewhere while the container was there, and the worker's last sample found the machine nearly full: the
    first alone may have been another container at its limit, while this one was killed by hand.
    """
    before = attributes["Config"]["Labels"].get(OOM_KILLS_LABEL)
    if before is None or machine_oom_kills() <= int(before):
        return False
    samples = read_samples(task.folder)
    return bool(samples) and float(samples[-1].get("ram_pct", 0)) >= NEARLY_FULL
