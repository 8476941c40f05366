"""End the threads by which Prefect asks for concurrency slots: one, with a connection, for every set of tags."""

from prefect.concurrency.services import ConcurrencySlotAcquisitionWithLeaseService as SlotService


def end_slot_services() -> None:
    """Call it between two rounds, when no task is at work; what is asked for again gets a new thread.

    A task's tags name its round, so every round leaves threads behind that nobody asks again: with four clients six of
    them, six descriptors and some MiB a round, until the process ends. Prefect offers no way to end just these.
    """
    for service in list(SlotService._instances.values()):  # type: ignore[misc]  # noqa: SLF001 - tests/unit/test_slots.py
        if isinstance(service, SlotService):
            service.drain()
