"""What a person does to a flow run before it has a run: while it waits for its turn, and while all is checked."""

import contextlib
import contextvars
import signal
import threading
from collections.abc import Callable, Iterator

from loguru import logger
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import Abort, Pause

from flows import will
from zk0.executors.stopping import end_fork_server
from zk0.runs.will import Want

LEAVE = signal.SIGUSR1
"""Wakes the flow, which waits for a process or for its turn; nobody else uses it here."""


@contextlib.contextmanager
def heard(flow_run: FlowRun | None) -> Iterator[Callable[[], None]]:
    """Leave the flow as soon as a person cancels, suspends or deletes the flow run.

    Args:
        flow_run: that this process executes; one without a deployment is a person's `zk0 run`.

    Yields:
        What ends it: from then on the run hears by itself, and remembers what it hears.

    Raises:
        Pause, Abort: a person ended it.
    """
    if flow_run is None or flow_run.deployment_id is None or threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    listening = _Listening(flow_run)
    signal.signal(LEAVE, listening.leave)  # for good: a late one must not end the process
    try:
        yield listening.ended.set
    except will.ENDINGS:
        if listening.what is not None:
            with contextlib.suppress(*will.PASSING):
                will.settle(flow_run, listening.what, listening.words)
        raise
    finally:
        listening.ended.set()


class _Listening:
    def __init__(self, flow_run: FlowRun) -> None:
        self.ended = threading.Event()
        self.what: Want | None = None
        self._flow_run = flow_run
        self._main = threading.main_thread()
        context = contextvars.copy_context()  # with the settings of this flow: where the server is
        threading.Thread(target=context.run, args=(self._watch,), name="zk0-early", daemon=True).start()

    @property
    def words(self) -> str:
        return f"{self.what} before there was a run"

    def leave(self, *_: object) -> None:
        """In the main thread, whatever that waits for."""
        if not self.ended.is_set():
            self.ended.set()
            raise Pause(self.words) if self.what == "suspended" else Abort(self.words)

    def _watch(self) -> None:
        while not self.ended.wait(will.LOOK_S):
            with contextlib.suppress(*will.PASSING), will.client() as client:
                self.what = will.wanted(client, self._flow_run.id, str(self._flow_run.flow_id))
            if self.what is not None and not self.ended.is_set():
                logger.info("flow run {} was {}", self._flow_run.name, self.words)
                end_fork_server()
                signal.pthread_kill(self._main.ident or 0, LEAVE)
                return
