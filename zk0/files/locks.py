"""Locks of whole files between processes: tried, never waited for without end; the kernel frees them."""

import fcntl
import time
from collections.abc import Iterable


def taken(descriptor: int, pauses_s: Iterable[float] = (0,), *, shared: bool = False) -> bool:
    """Try to lock a file; gives whether nobody else has it locked.

    Args:
        descriptor: of the file, which holds the lock until it is closed.
        pauses_s: before each try, in seconds.
        shared: whether others may have it like this, too: who only looks.

    Raises:
        OSError: its file system keeps no locks.
    """
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    for pause in pauses_s:
        time.sleep(pause)
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        return True
    return False
