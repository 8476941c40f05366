"""The worker's side of a process: take the task's lock, send all output to the client's log, do the work.

Light on purpose: it is imported by the orchestrator too, which never imports torch.
"""

import errno
import fcntl
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loguru import logger
from numpy.typing import NDArray

from zk0 import atomic, foreign
from zk0.closed_loop import Success
from zk0.config import RunConfig
from zk0.errors import CAUSES, BadInputError, ClientError, StorageError
from zk0.records import FIT_CHECKPOINT, VIDEOS_FOLDER, ClientTask, DataReport, Preflight
from zk0.results import find_finished

STORAGE = "storage"
"""Cause of a worker that could not write or read the run directory: the run's fault, not the client's."""
CONTAINER_MARK = "ZK0_CONTAINER"
"""Environment variable inside every container of the Docker executor: the container's name."""
LOOKS, LOOK_S = 10, 0.02
"""Times that a worker tries again to take its lock, which one who only looks at it by `is_held` has for an instant, and
the pause before each, in seconds."""
HELD_POLL_S = 0.5
FAILURE_EXIT_CODE = 3
"""Exit code of a worker that wrote a typed failure; any other death is judged from outside."""
HELD_EXIT_CODE = 5
"""Exit code of a worker that found another one at the same work."""
STORAGE_EXIT_CODE = StorageError.exit_code
"""Exit code of a worker that could not even write why it ended."""

NO_MEMORY = "can't allocate memory"
"""In the text of torch's plain RuntimeError where the CPU's memory ends; on a GPU it has a type of its own."""

OOM_SCORE_ADJ = 500
"""Of 1000: the kernel counts a worker as if it used half of the memory more than it does."""


def lock_path(task: ClientTask) -> Path:
    """Held by the worker while it lives; the kernel frees it however the worker dies."""
    return task.folder / f"{task.kind}.lock"


def failure_path(task: ClientTask) -> Path:
    """Where a worker writes why it ended, when it can tell."""
    return task.folder / f"{task.kind}.failed.json"


def read_failure(task: ClientTask) -> ClientError | StorageError | None:
    """Why the last worker ended, as far as it could tell; a damaged note is named in the log and tells nothing.

    These are the worker's own words: a cause that nobody knows is an `error`.
    """
    path = failure_path(task)
    try:
        with atomic.storage_errors(path, "read"):
            if not foreign.is_there(path):
                return None
        record = atomic.read_sealed(path, foreign.SMALL_BYTES)
    except StorageError as error:
        logger.warning("{}", error)
        return None
    cause = record.get("cause")
    message = f"{task.kind} of {task.client!r}: {foreign.words(record.get('message'))}"
    if cause == STORAGE:
        return StorageError(message)
    return ClientError(cause if cause in CAUSES else "error", message)


def leave_failure(task: ClientTask, error: ClientError | StorageError) -> None:
    """Write down why the work of a task failed.

    Raises:
        StorageError: it cannot be written.
    """
    cause = error.cause if isinstance(error, ClientError) else STORAGE
    atomic.write_sealed(failure_path(task), {"cause": cause, "message": str(error)})


@contextmanager
def worker_lock(task: ClientTask) -> Iterator[bool]:
    """Try to take the task's lock, as the worker that does it; gives False where another one holds it.

    Raises:
        StorageError: the lock cannot be opened.
    """
    with _lock_file(task) as descriptor:
        mine = any(_lock(descriptor, fcntl.LOCK_EX, after_s=pause) for pause in (0, *[LOOK_S] * LOOKS))
        if mine:
            with atomic.storage_errors(lock_path(task), "written"):
                os.ftruncate(descriptor, 0)
                # A PID of another namespace would mean someone else here.
                os.write(descriptor, os.environ.get(CONTAINER_MARK, str(os.getpid())).encode())
        yield mine


def is_held(task: ClientTask) -> bool:
    """Whether a live worker holds the task's lock; looking leaves no trace in it.

    Raises:
        StorageError: the lock cannot be opened.
    """
    with _lock_file(task) as descriptor:
        return not _lock(descriptor, fcntl.LOCK_SH)  # shared: others who look at the same time are no workers


@contextmanager
def _lock_file(task: ClientTask) -> Iterator[int]:
    with atomic.storage_errors(lock_path(task), "written"):
        task.folder.mkdir(parents=True, exist_ok=True)
        descriptor = foreign.open_ours(lock_path(task), os.O_RDWR | os.O_CREAT)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, how: int, after_s: float = 0) -> bool:
    time.sleep(after_s)
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return False
    return True


def wait_until_free(task: ClientTask, timeout_s: float) -> bool:
    """Wait for the end of a worker that holds the task's lock, whoever started it and wherever it runs.

    Args:
        task: the work.
        timeout_s: a worker older than this is not waited for, in seconds.

    Returns:
        Whether it ended.
    """
    started = lock_path(task).stat().st_mtime
    while time.time() < started + timeout_s:
        if not is_held(task):
            return True
        time.sleep(HELD_POLL_S)
    return False


def work(payload: str) -> None:
    """Entry point of a worker process; `payload` is a ClientTask as JSON."""
    task = ClientTask.model_validate_json(payload)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _die_first()
    try:
        _work_alone(task)
    except StorageError as error:
        _fail(task, error)


def _work_alone(task: ClientTask) -> None:
    """Do the work unless another worker is at it, or has done it."""
    with worker_lock(task) as mine:
        if not mine:
            sys.exit(HELD_EXIT_CODE)
        if find_finished(task) is not None:
            return  # by another worker, between our start and now: it had not taken the lock when we were asked for
        log = task.folder / "client.log"
        with atomic.storage_errors(task.folder, "tidied"):  # a container may have been at it before
            foreign.tidy(task.folder, {FIT_CHECKPOINT, VIDEOS_FOLDER})
            foreign.remove(failure_path(task))
        _redirect_output(log)
        _work(task, log)


def preflight(config: RunConfig) -> Preflight:
    """`preflight.preflight` in a worker process, and the estimate of a fit's memory where the config asks for it."""
    _die_first()
    _quiet()
    from zk0 import preflight as checks
    from zk0 import probe

    found = checks.preflight(config)
    return found.model_copy(update={"memory": probe.estimate(found.config)}) if config.memory.probe else found


def check_environments(config: RunConfig) -> None:
    """`preflight.check_environments` in a worker process, whose memory a simulator does not spoil for `preflight`."""
    _die_first()
    _quiet()
    from zk0 import preflight as checks

    checks.check_environments(config)


def check_data(config: RunConfig, fix_to: Path | None) -> DataReport:
    """`preflight.check_data` in a worker process."""
    _die_first()
    _quiet()
    from zk0 import preflight as checks

    return checks.check_data(config, fix_to)


def fetch(config: RunConfig) -> None:
    """`fetch.fetch` in a worker process."""
    _quiet()
    from zk0 import fetch

    fetch.fetch(config)


def aggregate_statistics(files: list[str]) -> dict[str, NDArray[Any]]:
    """LeRobot's `aggregate_stats` over the clients' statistics files, in a worker process; in and out flat tensors."""
    from zk0 import data

    return data.flatten_stats(data.aggregate([data.unflatten_stats(atomic.read_tensors(Path(file))) for file in files]))


def intervals(
    base: dict[str, Any] | None,
    now: dict[str, Any],
    clients: list[str],
    bootstrap_seed: int,
    success: Success | None = None,
) -> dict[str, Any]:
    """`intervals.of_round`, and success over all environments, in a worker: scipy would stay in the orchestrator."""
    from zk0 import intervals

    found = intervals.of_round(base, now, clients, bootstrap_seed)
    if success is not None:
        found["interval_95"] |= success.figures()["interval_95"]
    return found


def save_policy(payload: str, folder: str, merge: bool, own: bool) -> None:
    """`client_app.save_policy` in a worker process; `payload` is a ClientTask as JSON."""
    _quiet()
    from zk0 import client_app

    task = ClientTask.model_validate_json(payload)
    client_app.save_policy(task, client_app.read_config(Path(task.run_dir)), Path(folder), merge=merge, own=own)


def _work(task: ClientTask, log: Path) -> None:
    from zk0.executors import preload  # noqa: F401, I001 - before all else: its imports are the quick way to do these

    import torch

    from zk0 import client_app, logs, memory_sampler

    try:
        config = client_app.read_config(Path(task.run_dir))
        logs.setup_worker(log, task.client, task.server_round, config.logging)
        client_app.run_task(task)
    except (torch.OutOfMemoryError, MemoryError) as error:
        _fail(task, ClientError("out_of_memory", f"out of memory: {_first_line(error)}"))
    except RuntimeError as error:
        # A DataLoader process that the kernel took shows here as a plain RuntimeError.
        if NO_MEMORY not in str(error) and not memory_sampler.killed_for_memory(task.folder, ever=True):
            raise
        _fail(task, ClientError("out_of_memory", f"out of memory: {_first_line(error)}"))
    except BadInputError as error:
        _fail(task, ClientError("bad_data", str(error)))
    except ClientError as error:
        _fail(task, error)


def _die_first() -> None:
    """Let the kernel, where memory ends, kill this worker rather than the orchestrator or anything else."""
    path = Path("/proc/self/oom_score_adj")
    try:
        path.write_text(str(max(OOM_SCORE_ADJ, int(path.read_text(encoding="ascii")))), encoding="ascii")
    except (OSError, ValueError):
        return  # not Linux, or not allowed


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _fail(task: ClientTask, error: ClientError | StorageError) -> None:
    """Leave the reason where the orchestrator, or the next one, finds it; on a full disk, in the exit code alone."""
    try:
        leave_failure(task, error)
    except StorageError as unwritten:
        logging.getLogger(__name__).error("cannot write why %s ended: %s", task.kind, unwritten)  # noqa: TRY400 - its traceback helps nobody
        sys.exit(STORAGE_EXIT_CODE)
    sys.exit(FAILURE_EXIT_CODE)


def _quiet() -> None:
    """Keep LeRobot's chatter out of the terminal; what goes wrong comes back as an exception."""
    logging.getLogger().setLevel(logging.ERROR)
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, 1)
    os.close(descriptor)


def _redirect_output(log: Path) -> None:
    """Send stdout and stderr, the interpreter's last words included, to the client's log."""
    with atomic.storage_errors(log, "written"):
        descriptor = foreign.open_ours(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)
