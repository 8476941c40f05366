"""What the fork server does beside forking: it ends when the process that started it ends. It imports this first.

By itself it ends only when nobody is left who could ask it for a process, and every worker could: a fit that outlives
its orchestrator, to be adopted by the next, would keep it, with the memory of its imports.
"""

import ctypes
import os
import signal
import sys
from contextlib import suppress
from types import TracebackType

from zk0.files import FORK_SERVER_OF

PR_SET_PDEATHSIG = 1
"""Of Linux' `prctl`: the signal that the kernel sends when the thread ends that started this process; no child of it
inherits that."""


def _told(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ctrl-C while it imports is no fault of the code, and whoever pressed it is answered by the command."""
    if kind is not KeyboardInterrupt:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _told
with suppress(AttributeError, OSError):  # not Linux: it ends after its last worker
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
if os.environ.get(FORK_SERVER_OF) not in (None, str(os.getppid())):
    os._exit(0)  # it has ended before the kernel knew that we want to know
