"""What a flow does while Prefect's server is away: it waits, and does again what Prefect could not even begin."""

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator

import httpx
from loguru import logger
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings

from flows.server import answers, bring_back
from zk0.errors import Zk0Error

AWAY = (httpx.TransportError, ConcurrencySlotAcquisitionError)
"""What a client that never reached the server raises at once; one that did retries by itself."""
RESTART_AFTER_S = 10.0
"""A server that somebody else starts again has so long to come back."""
PATIENCE_S = 3600.0
POLL_S = 1.0
LOOK_S = 3.0
"""Pause between two looks at a server beside a flow."""
MOST_DATABASES = 5
"""Databases that one command loses before something else must be wrong."""


def patiently[**P, R](call: Callable[P, R]) -> Callable[P, R]:
    """A call that is repeated after the server was away; finished work is found in the run directory, not done twice.

    Args:
        call: what is to be done.

    Raises:
        Zk0Error: the server stayed away for an hour.
    """

    @functools.wraps(call)
    def repeated(*args: P.args, **kwargs: P.kwargs) -> R:
        while True:
            try:
                return call(*args, **kwargs)
            except AWAY as error:
                logger.warning("Prefect's server is away ({}: {}): waiting for it", type(error).__name__, error)
                wait_for_server()

    return repeated


def again[**P, R](flow: Callable[P, R], ended: Callable[[], bool]) -> Callable[P, R]:
    """A flow that begins anew where the server's database has been lost, or another server has taken its place.

    Args:
        flow: finds finished work in the run directory.
        ended: whether a person ended the run, who may have deleted the flow run.

    Raises:
        Zk0Error: that has happened `MOST_DATABASES` times.
    """

    @functools.wraps(flow)
    def repeated(*args: P.args, **kwargs: P.kwargs) -> R:
        url = str(get_current_settings().api.url)
        for _ in range(MOST_DATABASES):
            try:
                return flow(*args, **kwargs)
            except ObjectNotFound:
                if ended():
                    raise
                logger.warning("the Prefect server at {} knows nothing of this run any more: it is told anew", url)
                wait_for_server()
        raise Zk0Error(f"the Prefect server at {url} has forgotten this run {MOST_DATABASES} times; see what ends it")

    return repeated


@contextlib.contextmanager
def kept_up(url: str) -> Iterator[None]:
    """Say so when the server is away, and bring a local one back: Prefect's client waits for it without a word.

    Args:
        url: of its API.
    """
    ended = threading.Event()
    keeper = threading.Thread(target=_keep_up, args=(url, ended), name="zk0-server", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        ended.set()
        keeper.join()


def _keep_up(url: str, ended: threading.Event) -> None:
    left: float | None = None
    told = False
    while not ended.wait(LOOK_S):
        if answers(url):
            if told:
                logger.info("the Prefect server at {} answers again", url)
            left, told = None, False
        elif left is None:  # it may only be busy: told after the next look
            left = time.monotonic()
        else:
            if not told:
                logger.warning("the Prefect server at {} does not answer: waiting for it", url)
            told = True
            if time.monotonic() - left > RESTART_AFTER_S:
                bring_back(url)


def wait_for_server() -> None:
    """Come back when the server answers; `kept_up` starts a local one again.

    Raises:
        Zk0Error: it stayed away for an hour.
    """
    url = str(get_current_settings().api.url)
    left = time.monotonic()
    while not answers(url):
        away = time.monotonic() - left
        if away > PATIENCE_S:
            raise Zk0Error(f"no Prefect server at {url} for {away / 60:.0f} minutes; start it, then resume the run")
        time.sleep(POLL_S)
