"""The guard: work that ran out of memory is done again in half the micro-batch, and remembered; below 1 it is refused.

The effective batch stays what the config says, so the learning does, and a checkpoint serves whatever the micro-batch.
"""

from collections.abc import Callable
from pathlib import Path

from loguru import logger

from zk0.config import RunConfig
from zk0.errors import ClientError, QuarantineError
from zk0.memory import client_limits
from zk0.memory.samples import last_words
from zk0.work import attempts, quarantine
from zk0.work.promised import check_promised
from zk0.work.records import ClientResult, ClientTask, TaskKind

Run = Callable[[ClientTask], ClientResult]
"""An executor's `run`."""


def run_guarded(run: Run, task: ClientTask, config: RunConfig) -> ClientResult:
    """Run one piece of work, again in smaller micro-batches for as long as memory runs out.

    These further attempts are bounded by the halving, and do not count as retries.

    Args:
        run: the executor's.
        task: the work.
        config: the run's.

    Raises:
        QuarantineError: not even one frame at once fits, now or in an earlier round; or its updates were refused.
        ClientError: it ended in another way, or gave what was not asked for.
    """
    quarantine.check(task)
    result = _in_batches_that_fit(run, task, config)
    check_promised(result, config)
    return result


def _in_batches_that_fit(run: Run, task: ClientTask, config: RunConfig) -> ClientResult:
    whole = batch_size(task.kind, config)
    if whole is None:
        return run(task)
    while True:
        size = known_size(task, whole)
        try:
            return run(task.model_copy(update={"micro_batch_size": size if size < whole else None}))
        except ClientError as error:
            if error.cause != "out_of_memory":
                raise
            attempts.note_failure(task, error)
            finding = client_limits.ran_out(task, size, _figures(task, error))
            if not finding.quarantined:
                logger.warning(
                    "{} ran out of memory with micro-batches of {}, goes on with {}: {}",
                    *(task.kind, size, finding.micro_batch_size, error),
                )


def batch_size(kind: TaskKind, config: RunConfig) -> int | None:
    """Frames at once that the config asks for; None for work that is not done in batches."""
    return {
        "train": config.training.micro_batch_size or config.training.batch_size,
        "evaluate": config.evaluation.batch_size,
    }.get(kind)


def known_size(task: ClientTask, whole: int) -> int:
    """Frames at once that a client can bear, as far as is known.

    Raises:
        QuarantineError: none.
    """
    run_dir = Path(task.run_dir)
    known = client_limits.read(run_dir, task.client, task.kind)
    if known is None:
        return whole
    if known.quarantined:
        raise QuarantineError(
            "out_of_memory",
            f"{task.client!r} is quarantined: {task.kind} runs out of memory even with one frame at once "
            f"({known.story()}); give it more memory, then remove "
            f"{client_limits.path_of(run_dir, task.client, task.kind)}",
        )
    return min(whole, known.micro_batch_size)


def _figures(task: ClientTask, error: ClientError) -> str:
    """The last that was seen of the worker's memory, or what it said itself."""
    text = str(error)
    return text[text.index("soft limit") :] if "soft limit" in text else f"{last_words(task.folder)} ({text})"
