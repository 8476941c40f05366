"""End the threads by which Prefect asks for concurrency slots: one, with a connection, for every set of tags."""

import concurrent.futures
import threading
from typing import Any

from prefect._internal.concurrency.threads import get_global_loop
from prefect.concurrency.services import ConcurrencySlotAcquisitionWithLeaseService as SlotService

WAIT_S = 10.0
"""A thread that needs longer to end does so by itself, later."""


def end_slot_services() -> None:
    """Call it between two rounds, when no task is at work; what is asked for again gets a new thread.

    A task's tags name its round, so every round leaves threads behind that nobody asks again: with four clients six of
    them, six descriptors and some MiB a round, until the process ends. Prefect offers no way to end just these; what is
    used here of its insides is held by tests/unit/tasks/test_slots.py.
    """
    known: list[Any] = list(SlotService._instances.values())  # type: ignore[misc]  # noqa: SLF001
    ended = {service._drain(): service for service in known if isinstance(service, SlotService)}  # noqa: SLF001
    _forget([ended[future] for future in concurrent.futures.wait(ended, timeout=WAIT_S).done])


def _forget(services: list[Any]) -> None:
    """Let go of ended services, and of what hooks for the exit keep with them: a few hundred KiB to 1 MiB for each."""
    loop = get_global_loop()
    # Each call has a copy of the context that it was made in, and by it the states and results of a whole round.
    calls = loop._on_shutdown  # noqa: SLF001
    calls[:] = [call for call in calls if getattr(call.fn, "__self__", None) not in services]
    at_exit = threading._threading_atexits  # type: ignore[attr-defined]  # noqa: SLF001
    at_exit[:] = [call for call in at_exit if getattr(call.func, "__self__", None) not in services]
    for service in services:
        for heavy in ("_client", "_queue_get_thread"):  # an SSL context; a thread's object
            vars(service).pop(heavy, None)
