"""End the threads by which Prefect asks for concurrency slots: one, with a connection, for every set of tags."""

import concurrent.futures
from typing import Any

from prefect.concurrency.services import ConcurrencySlotAcquisitionWithLeaseService as SlotService

WAIT_S = 10.0
"""A thread that needs longer to end does so by itself, later."""


def end_slot_services() -> None:
    """Call it between two rounds, when no task is at work; what is asked for again gets a new thread.

    A task's tags name its round, so every round leaves threads behind that nobody asks again: with four clients six of
    them, six descriptors and some MiB a round, until the process ends. Prefect offers no way to end just these; what is
    used here of its insides is held by tests/unit/test_slots.py.
    """
    known: list[Any] = list(SlotService._instances.values())  # type: ignore[misc]  # noqa: SLF001
    ended = {service._drain(): service for service in known if isinstance(service, SlotService)}  # noqa: SLF001
    for future in concurrent.futures.wait(ended, timeout=WAIT_S).done:
        # Prefect's hooks for the exit keep the service for ever, and by its client an SSL context of about 1 MiB.
        vars(ended[future]).pop("_client", None)
