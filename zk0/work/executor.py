"""Where a ClientTask runs. Every executor takes a task and gives its result, or a ClientError with a cause."""

import threading
from typing import Protocol

from zk0.work.records import ClientResult, ClientTask

STOPPED = threading.Event()
"""Set when a person, or the system, ends this orchestrator: work that is ended then is neither judged nor repeated."""


class Executor(Protocol):
    """Runs one piece of work that can die."""

    def run(self, task: ClientTask) -> ClientResult:
        """Do the work, or find it done, or adopt it where it is under way.

        Raises:
            ClientError: it ended without a result.
            StorageError: the run directory cannot be written or read.
        """
        ...
