"""The way to the nodes of one mailbox: keeps a courier at work, asks, and waits for answers."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from loguru import logger

from zk0.errors import ClientError, HopelessError, PassingError
from zk0.link import submit
from zk0.link.folder import Link
from zk0.link.mailbox import Mailbox, Status
from zk0.link.wire import Answer, Request
from zk0.work.executor import STOPPED

LOOK_S = 0.2
FRESH_S = 20.0
"""A courier that has not said anything for so long is gone, or the SuperLink is."""
BEGIN_S = 60.0
"""What a courier may take from its submission to its first word."""
PAUSE_S = 5.0
"""Between two submissions that fail."""
UNSEEN_S = 5.0
"""Between two looks at who is there; after a longer pause nobody knows who was."""

OnProgress = Callable[[dict[str, Any]], None]


def new_ask() -> str:
    """Identity of an asking."""
    return uuid4().hex


class Line:
    """One mailbox and its courier; any number of threads may ask."""

    def __init__(self, link: Link, box: Mailbox) -> None:
        """Prepare; nothing is submitted yet.

        Args:
            link: the link.
            box: the mailbox.
        """
        self.link, self.box = link, box.make()
        self._keeping = threading.Lock()
        self._not_before = 0.0
        self._submitted: set[str] = set()
        """The courier that was submitted last, by Flower's id of its run."""
        self._looking = threading.Lock()
        self._looked = 0.0
        self._seen: dict[str, float] = {}
        """When each client's node was there last, by the monotonic clock; time in which nobody looked is left out."""

    def wait(
        self, request: Request, *, limit_s: float, away_s: float, on_progress: OnProgress = lambda _: None
    ) -> Answer:
        """Wait for the answer to a request that lies in the mailbox; it stays there.

        Args:
            request: that.
            limit_s: longest time to wait, in seconds.
            away_s: longest time that its node may be away, in seconds; what it was away before counts.
            on_progress: told how far it is, where that changes.

        Raises:
            ClientError: the run was ended; or there is no answer in time.
            HopelessError: the node is away.
        """
        began = time.monotonic()
        known: dict[str, Any] = {}
        while (answer := self.box.answer(request)) is None:
            if STOPPED.is_set():
                raise ClientError("lost", "the run was ended")
            if self._away_for(request.client) > away_s:
                raise HopelessError("lost", self._away(away_s))
            if time.monotonic() - began > limit_s:
                raise ClientError("timeout", f"no answer of its node in {limit_s:g} s")
            self.keep()
            if (progress := self.box.progress(request)) != known:
                known = progress
                on_progress(progress)
            time.sleep(LOOK_S)
        return answer

    def _away(self, away_s: float) -> str:
        """Why there is no answer: who was there last tells who it is that lacks."""
        if _is_fresh(self.box.status()):
            return f"its node has been away for {away_s:g} s (executor.away_s)"
        return (
            f"its node has been away for {away_s:g} s (executor.away_s), and so is the link now: see that `zk0 link "
            f"start {self.link.folder}` runs"
        )

    def begin(self) -> None:
        """Have a courier at work.

        Raises:
            PassingError: the link does not take it.
        """
        self._not_before = time.monotonic() + BEGIN_S
        self._submit(submit.PATIENCE_S)

    def _submit(self, patience_s: float) -> None:
        flower_run = submit.submit(self.link, self.box, patience_s)
        self._submitted = {flower_run}
        self.box.appoint(flower_run)

    def keep(self, *, fresh_s: float = FRESH_S, patience_s: float = submit.PATIENCE_S) -> None:
        """See that a courier is at work; one that is gone is submitted again.

        Args:
            fresh_s: a courier that has not said anything for so long is gone.
            patience_s: what the link may take to answer, in seconds.
        """
        if not self._keeping.acquire(blocking=False):
            return
        try:
            status = self.box.status()
            if _is_fresh(status, fresh_s) or time.monotonic() < self._not_before:
                return
            if status is not None:
                logger.info("no word of the courier: submitting it again")
            for flower_run in {*self._submitted, *([status.flower_run] if status is not None else [])}:
                with suppress(PassingError):
                    submit.end(self.link, flower_run, patience_s)
            self._not_before = time.monotonic() + BEGIN_S
            self._submit(patience_s)
        except PassingError as error:
            self._not_before = time.monotonic() + PAUSE_S
            logger.warning("the courier cannot be submitted: {}", error)
        finally:
            self._keeping.release()

    def _away_for(self, client: str) -> float:
        """How long a client's node has been away, in seconds in which somebody looked."""
        with self._looking:
            now, status = time.monotonic(), self.box.status()
            if (unseen := now - self._looked) > UNSEEN_S:
                self._seen = {name: at + unseen for name, at in self._seen.items()}
            self._looked = now
            if status is not None and _is_fresh(status):
                self._seen |= dict.fromkeys(status.present, now)
            return now - self._seen.setdefault(client, now)


def _is_fresh(status: Status | None, fresh_s: float = FRESH_S) -> bool:
    return status is not None and time.time() - status.at < fresh_s


_lines: dict[Path, Line] = {}
_making = threading.Lock()


def line(link: Link, box: Mailbox) -> Line:
    """The line of a mailbox, one in this process."""
    with _making:
        if box.folder not in _lines:
            _lines[box.folder] = Line(link, box)
        box.make()
        return _lines[box.folder]
