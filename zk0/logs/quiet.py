"""A filter for the log of Prefect's server, which tells of every retry with a traceback."""

import logging
import time

PASSING = "database is locked"
"""SQLite, of a transaction that read before it wrote while another wrote: no waiting helps; who met it tries again."""
SAY_EVERY_S = 600.0


class Passing(logging.Filter):
    """Of faults that pass by themselves lets one line through in ten minutes, their number in place of tracebacks."""

    def __init__(self) -> None:
        super().__init__()
        self._met = 0
        self._next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is logged; see `logging.Filter`."""
        error = record.exc_info[1] if record.exc_info else None
        if PASSING not in f"{error} {record.getMessage()}":
            return True
        self._met += 1
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + SAY_EVERY_S
        record.exc_info = record.exc_text = None
        record.msg, record.args = "%d times: %s; it is tried again", (self._met, PASSING)
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        self._met = 0
        return True
