"""Where a ClientTask runs. Every executor takes a task and gives its result, or a ClientError with a cause.

`Executor` is what every one has; `Checked`, `Stoppable` and `Placed` are what one may have besides.
"""

import threading
from typing import Protocol, runtime_checkable

from zk0.work.records import ClientResult, ClientTask

STOPPED = threading.Event()
"""Set when a person, or the system, ends this orchestrator: work that is ended then is neither judged nor repeated."""


class Executor(Protocol):
    """Runs one piece of work that can die; several at a time, each in a thread that waits for it."""

    def run(self, task: ClientTask) -> ClientResult:
        """Do the work, or find it done, or adopt it where it is under way.

        Raises:
            ClientError: it ended without a result.
            StorageError: the run directory cannot be written or read.
        """
        ...


@runtime_checkable
class Checked(Protocol):
    """An executor that can tell before a run whether it will be able to work."""

    def check(self) -> None:
        """See that all is there that the work needs.

        Raises:
            ConfigError: something is not; names the key, its value and the remedy.
        """
        ...


@runtime_checkable
class Stoppable(Protocol):
    """An executor that can end its work."""

    def stop(self, run_dir: str) -> None:
        """End what is at work for a run that a person ends; what a killed orchestrator left goes on, to be adopted.

        Args:
            run_dir: absolute path of the run directory, as in `ClientTask.run_dir`.
        """
        ...


@runtime_checkable
class Placed(Protocol):
    """An executor that knows how many clients may be at work at the same time, where the config does not say."""

    @property
    def places(self) -> int:
        """Their number, from 1."""
        ...
