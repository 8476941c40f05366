"""What the fork server does beside forking: it ends when the process that started it has ended. It imports this first.

By itself it ends only when nobody is left who could ask it for a process, and every worker could: a fit that outlives
its orchestrator, to be adopted by the next, would keep it, with the memory of its imports.
"""

import os
import signal

LOOK_S = 2.0
"""Between two looks at the parent, in seconds."""
_PARENT, _SERVER = os.getppid(), os.getpid()


def _look(*_: object) -> None:
    # A process whose parent has ended gets another.
    if os.getpid() == _SERVER and os.getppid() != _PARENT:
        os._exit(0)


def _forget() -> None:
    """In a worker: the timer is not inherited, what it calls is."""
    if signal.getsignal(signal.SIGALRM) is _look:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


# By a signal, for a thread is no good in a process that forks.
signal.signal(signal.SIGALRM, _look)
signal.setitimer(signal.ITIMER_REAL, LOOK_S, LOOK_S)
os.register_at_fork(after_in_child=_forget)
