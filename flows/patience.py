"""What a flow does while Prefect's server is away: it waits, and does again what Prefect could not even begin."""

import functools
import time
from collections.abc import Callable

import httpx
from loguru import logger
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings

from flows.server import STARTUP_TIMEOUT_S, answers, bring_back
from zk0.errors import Zk0Error

AWAY = (httpx.TransportError, ConcurrencySlotAcquisitionError)
"""What a client that never reached the server raises at once; one that did retries by itself."""
RESTART_AFTER_S = 10.0
"""A server that somebody else starts again has so long to come back."""
PATIENCE_S = 3600.0
POLL_S = 1.0
MOST_DATABASES = 5
"""Databases that one command loses before something else must be wrong."""


def patiently[**P, R](call: Callable[P, R], *, brings_back: bool = True) -> Callable[P, R]:
    """A call that is repeated after the server was away; finished work is found in the run directory, not done twice.

    Args:
        call: what is to be done.
        brings_back: see `wait_for_server`.

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
                wait_for_server(brings_back=brings_back)

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


def wait_for_server(*, brings_back: bool = True) -> None:
    """Come back when the server answers.

    Args:
        brings_back: whether a local one that nobody brings back is started again; by one thread of a process only.

    Raises:
        Zk0Error: it stayed away for an hour.
    """
    url = str(get_current_settings().api.url)
    away, next_start = 0.0, RESTART_AFTER_S
    left = time.monotonic()
    while not answers(url):
        away = time.monotonic() - left
        if away > PATIENCE_S:
            raise Zk0Error(f"no Prefect server at {url} for {away / 60:.0f} minutes; start it, then resume the run")
        if brings_back and away > next_start:
            bring_back(url)
            next_start = away + STARTUP_TIMEOUT_S
        time.sleep(POLL_S)
