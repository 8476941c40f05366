"""What tasks/slots.py knows of Prefect's insides."""

import threading
import time

from prefect._internal.concurrency.threads import get_global_loop
from prefect.concurrency.services import ConcurrencySlotAcquisitionWithLeaseService as SlotService
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.slots import end_slot_services


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_the_slot_services_end_and_no_other() -> None:
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):  # nobody is asked for anything
        services = [SlotService.instance(frozenset({f"tag:round:{number}"})) for number in range(3)]
        other = APILogWorker.instance()
        assert sum(name == "ConcurrencySlotAcquisitionWithLeaseServiceThread" for name in threads()) == 1
        end_slot_services()
        deadline = time.monotonic() + 20
        while "ConcurrencySlotAcquisitionWithLeaseServiceThread" in threads():
            assert time.monotonic() < deadline, "still there"
            time.sleep(0.05)
        assert not any(hasattr(service, "_client") for service in services), "each holds an SSL context"
        kept = [getattr(call.fn, "__self__", None) for call in get_global_loop()._on_shutdown]
        assert other in kept
        assert not set(services) & set(kept), "each call holds a context"
        at_exit = [getattr(call.func, "__self__", None) for call in threading._threading_atexits]
        assert other in at_exit
        assert not set(services) & set(at_exit), "each holds a queue"
        assert other in SlotService._instances.values()
        assert not set(services) & set(SlotService._instances.values())
        assert SlotService.instance(frozenset({"tag:round:1"})) not in services
        end_slot_services()
