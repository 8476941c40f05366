"""What a node says of a failure: its cause and zk0's own words, without the owner's paths and without a library's text.

A library's text may quote what it was reading; and so may the last line of a log. Both stay in the node's own log.
"""

import re
from pathlib import Path

from zk0 import errors
from zk0.errors import ClientError, FailureCause, Zk0Error
from zk0.files import atomic, untrusted
from zk0.link.wire import Answer, Request
from zk0.work.failure import failure_path
from zk0.work.log import what
from zk0.work.records import ClientTask

ELSEWHERE = "the node's log says more"
DEATHS: dict[FailureCause, str] = {
    "out_of_memory": "it ran out of memory",
    "timeout": "it took longer than executor.timeout_s, and was ended",
    "lost": "its process ended without a word",
    "refused": "its owner does not allow it",
    "bad_data": "what it left cannot be used",
    "error": "it failed",
}
"""What is said of work that could not tell why it ended."""
_PATH = re.compile(r"(?<![\w.])(?:~|file:|/)[^\s:;,'\"()\[\]]*/[^\s:;,'\"()\[\]]*")


def failed(request: Request, error: Exception, task: ClientTask | None = None) -> Answer:
    """The answer to a request that ended by an error.

    Args:
        request: what was asked for.
        error: as it was caught.
        task: the work, as it is here.
    """
    cause: FailureCause = error.cause if isinstance(error, ClientError) else "error"
    if isinstance(error, errors.BadInputError):
        cause = "bad_data"
    repeats = error.repeats if isinstance(error, Zk0Error) else False
    words = _words(error, cause, task)
    return Answer(ask=request.ask, state="failed", cause=cause, message=words, repeats=repeats)


def _words(error: Exception, cause: FailureCause, task: ClientTask | None) -> str:
    if isinstance(error, errors.RefusedError):
        return without_paths(str(error))
    if task is not None and isinstance(error, ClientError):
        return _of_a_process(task, cause)
    if isinstance(error, errors.UnforeseenError | errors.PassingError) or not isinstance(error, Zk0Error):
        name = untrusted.words(error).split(":", maxsplit=1)[0] if isinstance(error, Zk0Error) else type(error).__name__
        return f"something nobody foresaw ({name if name.isidentifier() else type(error).__name__}); {ELSEWHERE}"
    if isinstance(error, errors.StorageError):
        return f"its disk cannot be written or read; {ELSEWHERE}"
    return without_paths(str(error))


def _of_a_process(task: ClientTask, cause: FailureCause) -> str:
    """Why a worker process ended, as far as it could tell."""
    name, said = _left(task)
    if not name:
        return f"{DEATHS[cause]}; {ELSEWHERE}"
    return without_paths(said) if _is_ours(name) else f"a library raised {name}; {ELSEWHERE}"


def _left(task: ClientTask) -> tuple[str, str]:
    """The class and the words that a worker process left; empty where it could leave none."""
    try:
        record = atomic.read_sealed(failure_path(task), untrusted.SMALL_BYTES)
    except errors.StorageError:
        return "", ""
    return str(record.get("error")), f"{what(task)}: {record.get('message')}"


def _is_ours(name: str) -> bool:
    kind = getattr(errors, name, None)
    return isinstance(kind, type) and issubclass(kind, Zk0Error) and not issubclass(kind, errors.UnforeseenError)


def without_paths(text: str) -> str:
    """A text of ours with the names of files instead of their paths."""
    return untrusted.words(_PATH.sub(lambda found: f".../{Path(found[0]).name}", text))
