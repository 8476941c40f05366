"""What an ended worker process left: its result, or an error that says how it died."""

import signal

from zk0.errors import ClientError
from zk0.executors.worker import STORAGE_EXIT_CODE
from zk0.memory.samples import killed_for_memory, last_words
from zk0.work.failure import crash, read_failure, unwritable
from zk0.work.log import client_log, end_of, last_line, what
from zk0.work.records import ClientResult, ClientTask
from zk0.work.results import find_finished

FORK_SERVER_GONE = 255
"""Exit code that multiprocessing gives to every worker whose fork server has died, while the worker itself lives on."""


def outcome(task: ClientTask, exit_code: int | None) -> ClientResult:
    """The result that an ended worker left.

    Args:
        task: the work.
        exit_code: of the worker, negative for a signal; None where it is unknown (an adopted worker).

    Raises:
        ClientError: there is none: what the worker said of it; how it died, where it said nothing.
        StorageError: the run directory could not be written.
    """
    if (found := find_finished(task)) is not None:
        return found
    if (failure := read_failure(task)) is not None:
        raise failure
    log = client_log(task)
    if exit_code in (None, FORK_SERVER_GONE, -signal.SIGKILL) and killed_for_memory(task.folder):
        raise ClientError(
            "out_of_memory", f"{what(task)}: killed by the kernel, out of memory; {last_words(task.folder)}"
        )
    if exit_code == STORAGE_EXIT_CODE:
        unwritable(task)
    if exit_code is None:
        raise ClientError("lost", f"{what(task)}: the adopted worker ended without a result; see {log}")
    if exit_code == -signal.SIGALRM:
        raise ClientError("timeout", f"{what(task)} took longer than executor.timeout_s; it ended itself")
    if exit_code < 0:
        if (crashed := crash(-exit_code, end_of(log))) is not None:
            raise ClientError("error", f"{what(task)}: {crashed}; see {log}")
        name = signal.Signals(-exit_code).name
        raise ClientError("lost", f"{what(task)}: the worker was killed by {name}; see {log}")
    said = f"the worker ended without a word of why (exit code {exit_code}); its log's last line: {last_line(log)}"
    raise ClientError("error", f"{what(task)}: {said}; see {log}")
