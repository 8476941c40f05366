"""Whether a flow run's process lives: here by its command, on any machine that shares the folder of runs by a lock."""

import contextlib
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import psutil
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, StateType, WorkerStatus

from flows.process import FLOW_RUN_VARIABLE
from flows.rows import store_of
from zk0 import errors
from zk0.runs import processes

STARTING = timedelta(seconds=60)
"""What a worker on another machine may take from taking a flow run to its process."""


def worker_name() -> str:
    """Of this machine's worker."""
    return f"zk0-{socket.gethostname()}"


def serves_alone(client: SyncPrefectClient, pool: str) -> bool:
    """Whether no worker of another machine has shown itself lately."""
    workers = client.read_workers_for_work_pool(pool)
    return not any(worker.status == WorkerStatus.ONLINE and worker.name != worker_name() for worker in workers)


def is_alive(flow_run: FlowRun, outputs: Path, *, alone: bool) -> bool:
    """Whether a process has the run, or will have it in a moment: one that is still importing holds no lock of a run.

    Args:
        flow_run: as Prefect has it.
        outputs: the folder of the runs.
        alone: see `serves_alone`.
    """
    store = store_of(flow_run)
    with contextlib.suppress(errors.Zk0Error):
        if store is not None and store.holder() is not None:
            return True
    if processes.lives(outputs, str(flow_run.id)):
        return True
    if any(_executes(process, flow_run.id) for process in psutil.process_iter()):
        return True
    state = flow_run.state
    assert state is not None
    return not alone and state.type == StateType.PENDING and datetime.now(UTC) - state.timestamp < STARTING


def _executes(process: psutil.Process, flow_run_id: UUID) -> bool:
    """Whether a process is the flow run's own; its clients inherit its environment, but not its command."""
    with contextlib.suppress(psutil.Error):
        words = process.cmdline()
        engine = "prefect.engine" in words or "flow-run" in words
        return engine and process.environ().get(FLOW_RUN_VARIABLE) == str(flow_run_id)
    return False
