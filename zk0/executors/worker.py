"""The worker's side of a process: take the task's lock, send all output to the client's log, do the work.

Light on purpose: it is imported by the orchestrator too, which never imports torch.
"""

import faulthandler
import logging
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from zk0.errors import StorageError, Zk0Error
from zk0.files import atomic, untrusted
from zk0.layout import FIT_CHECKPOINT, VIDEOS_FOLDER
from zk0.memory.samples import killed_for_memory
from zk0.work.failure import failure_path, leave_failure
from zk0.work.lock import worker_lock
from zk0.work.log import client_log
from zk0.work.records import ClientTask
from zk0.work.results import find_finished
from zk0.work.told import fault_below, tell

FAILURE_EXIT_CODE = 3
"""Exit code of a worker that wrote a typed failure; any other death is judged from outside."""
HELD_EXIT_CODE = 5
"""Exit code of a worker that found another one at the same work."""
STORAGE_EXIT_CODE = StorageError.exit_code
"""Exit code of a worker that could not even write why it ended."""
OOM_SCORE_ADJ = 500
"""Of 1000: the kernel counts a worker as if it used half of the memory more than it does."""


def work(payload: str, limit_s: float = 0) -> None:
    """Entry point of a worker process.

    Args:
        payload: a ClientTask as JSON.
        limit_s: seconds after which it ends itself even where no orchestrator is left to do it; 0 for no limit.
    """
    task = ClientTask.model_validate_json(payload)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, limit_s)  # SIGALRM kills: nothing handles it
    die_first()
    try:
        code = _work_alone(task)
    except StorageError as error:
        code = _failed(task, error)
    if code:
        sys.exit(code)


def _work_alone(task: ClientTask) -> int:
    """Do the work unless another worker is at it, or has done it; gives the exit code."""
    with worker_lock(task) as mine:
        if not mine:
            return HELD_EXIT_CODE
        if find_finished(task) is not None:
            return 0  # by another worker, between our start and now: it had not taken the lock when we were asked for
        log = client_log(task)
        with atomic.storage_errors(task.folder, "tidied"):  # a container may have been at it before
            untrusted.tidy(task.folder, {FIT_CHECKPOINT, VIDEOS_FOLDER})
            untrusted.remove(failure_path(task))
        _redirect_output(log)
        try:
            _work(task, log)
        except BaseException as error:  # noqa: BLE001 - whatever ends the work is told: no one else can know it
            return _failed(task, error)
        return 0


def _work(task: ClientTask, log: Path) -> None:
    from zk0.executors import preload  # noqa: F401, I001 - before all else: its imports are the quick way to do these

    from zk0.client.inputs import read_config
    from zk0.client.run import run_task
    from zk0.logs.setup import setup_worker

    config = read_config(Path(task.run_dir))
    setup_worker(log, task.client, task.server_round, config.logging)
    run_task(task)


def die_first() -> None:
    """Let the kernel, where memory ends, kill this worker rather than the orchestrator or anything else."""
    path = Path("/proc/self/oom_score_adj")
    try:
        path.write_text(str(max(OOM_SCORE_ADJ, int(path.read_text(encoding="ascii")))), encoding="ascii")
    except (OSError, ValueError):
        return  # not Linux, or not allowed


def _failed(task: ClientTask, error: BaseException) -> int:
    """Leave the reason where the orchestrator, or the next one, finds it; on a full disk, in the exit code alone."""
    if not isinstance(error, Zk0Error) and (fault := fault_below(error, Path(task.run_dir))) is not None:
        try:
            with atomic.storage_errors(Path(str(fault.filename)), "read"):  # by LeRobot, such as the run's own base
                raise fault
        except StorageError as of_disk:
            error = of_disk
    told = tell(error)
    # A DataLoader process that the kernel took shows here as a plain RuntimeError.
    if told.cause == "error" and isinstance(error, RuntimeError) and killed_for_memory(task.folder, ever=True):
        memory = {"cause": "out_of_memory", "words": f"out of memory: {told.words}", "passes": True}
        told = told.model_copy(update=memory)
    if not isinstance(error, StorageError):
        with suppress(OSError):  # on a full disk
            sys.stderr.write(told.trace)  # the client's log, by now
            sys.stderr.flush()
    try:
        leave_failure(task, told)
    except StorageError as unwritten:
        logging.getLogger(__name__).error("cannot write why %s ended: %s", task.kind, unwritten)  # noqa: TRY400 - its traceback helps nobody
        return STORAGE_EXIT_CODE
    return FAILURE_EXIT_CODE


def quiet() -> None:
    """Keep LeRobot's chatter out of the terminal; what goes wrong comes back as an exception."""
    logging.getLogger().setLevel(logging.ERROR)
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, 1)
    os.close(descriptor)


def _redirect_output(log: Path) -> None:
    """Send stdout and stderr, the interpreter's last words included, to the client's log."""
    with atomic.storage_errors(log, "written"):
        descriptor = untrusted.open_ours(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)
    faulthandler.enable(2, all_threads=False)  # what compiled code crashed in
