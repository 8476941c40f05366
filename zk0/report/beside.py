"""What only shows, in a thread of its own: it neither ends a run nor holds it up."""

import contextvars
import threading
from collections.abc import Callable

from loguru import logger


class Beside:
    """Shows rounds beside the work on the next ones; where it cannot keep up, the newest counts.

    Args:
        show: shows a committed round, and all before it.
    """

    def __init__(self, show: Callable[[int], None]) -> None:
        self._show = show
        self._lock = threading.Lock()
        self._wanted: int | None = None
        self._idle = threading.Event()
        self._idle.set()

    def show(self, server_round: int) -> None:
        """Have a round shown soon; comes back at once."""
        with self._lock:
            self._wanted = server_round
            if not self._idle.is_set():
                return
            self._idle.clear()
        # A daemon: whoever ends the run does not wait for its pictures.
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self._work,), name="zk0-show", daemon=True).start()

    def wait(self, patience_s: float) -> bool:
        """Come back when everything is shown, or patience ends; gives whether it is.

        Args:
            patience_s: seconds.
        """
        return self._idle.wait(patience_s)

    def _work(self) -> None:
        while (server_round := self._next()) is not None:
            try:
                self._show(server_round)
            except Exception as error:  # noqa: BLE001 - what only shows must not end a run
                logger.warning("round {} is not shown: {}: {}", server_round, type(error).__name__, error)

    def _next(self) -> int | None:
        with self._lock:
            wanted, self._wanted = self._wanted, None
            if wanted is None:
                self._idle.set()
            return wanted
