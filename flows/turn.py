"""One served run at a time, by a lock of our own: Prefect counts wrong after a cancel, and forgets who was killed."""

import contextlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from loguru import logger
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import Abort, ExternalSignal, ObjectNotFound
from prefect.states import AwaitingRetry, Scheduled

from flows import will
from flows.queue import WAITS
from flows.rows import RUN_DIR_LABEL, may_need_help
from zk0.errors import Zk0Error
from zk0.runs.store import RunStore
from zk0.runs.turn import Turn

POLL_S = 2.0
WAITS_HERE = "waits-for-its-turn"
"""Tag of a flow run that Prefect let begin, for it counts wrong, and that waits in its process."""
GIVE_WAY = timedelta(minutes=5)
"""Whoever gives way is told when its turn has come (flows/queue.py), and looks again after this."""


@contextlib.contextmanager
def own_turn(flow_run: FlowRun | None, outputs: str) -> Iterator[None]:
    """Be the one run of the service that is under way in a folder of runs; a flow without a deployment needs no turn.

    Args:
        flow_run: that this process executes.
        outputs: the folder.

    Raises:
        Abort: a run whose process was killed goes first; this one was put back in the queue.
        StorageError: the folder cannot be written, or keeps no locks.
    """
    if flow_run is None or flow_run.deployment_id is None:
        yield
        return
    mine = str(flow_run.id)
    with Turn(outputs) as turn:
        if not turn.take():
            logger.info("another run of the service is under way in {}: waiting for its end", outputs)
            _tell(flow_run, waits=True)
            while not turn.take():
                time.sleep(POLL_S)
        _tell(flow_run, waits=False)
        _let_first(turn.owner, flow_run)
        turn.owner = mine
        try:
            yield
        except ExternalSignal:  # by a service that ends, it goes on with the next; by a cancel, its run remembers that
            raise
        except BaseException:
            turn.owner = None
            raise
        turn.owner = None


def _tell(flow_run: FlowRun, *, waits: bool) -> None:
    """Say on the page that it waits, which Prefect takes for running: by a tag, for a state could hide a person's."""
    tags = sorted({*flow_run.tags, WAITS_HERE} if waits else {*flow_run.tags} - {WAITS_HERE})
    if tags != sorted(flow_run.tags):
        with contextlib.suppress(*will.PASSING), will.client() as client:
            client.update_flow_run(flow_run.id, tags=tags)
            flow_run.tags = tags


def _let_first(owner: str | None, flow_run: FlowRun) -> None:
    """Give way to a flow run that was killed in its turn, and will be put back."""
    if owner in (None, str(flow_run.id)):
        return
    with get_client(sync_client=True) as client:
        first = _coming_back(client, str(owner))
        if first is None:
            return
        logger.info("flow run {} was killed in its turn, and goes first", first.name)
        now = datetime.now(UTC)
        waits: State[Any] = Scheduled(
            name=WAITS, scheduled_time=now + GIVE_WAY, message=f"waits for {first.name}, which was killed in its turn"
        )
        client.set_flow_run_state(flow_run.id, waits, force=True)
        if first.state_name == WAITS:  # for the place that this one had
            goes: State[Any] = AwaitingRetry(scheduled_time=now, message="goes first, for it was killed in its turn")
            client.set_flow_run_state(first.id, goes, force=True)
    raise Abort("another goes first")


def _coming_back(client: SyncPrefectClient, owner: str) -> FlowRun | None:
    """The flow run of that id, if it will be executed again; None where nothing or nobody wants that."""
    try:
        first = client.read_flow_run(UUID(owner))
    except (ObjectNotFound, ValueError):
        return None
    folder = (first.labels or {}).get(RUN_DIR_LABEL)
    with contextlib.suppress(Zk0Error):
        if folder and RunStore.open(str(folder)).stopped is not None:
            return None
    assert first.state is not None
    return first if first.state.type == StateType.SCHEDULED or may_need_help(first) else None
