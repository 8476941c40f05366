"""When a run is over, nothing of it looks alive in Prefect: rows of dead processes, and those that a dead server left.

A task run's states reach the server as events; a server that is killed forgets those that it has not written yet.
"""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from loguru import logger
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
    TaskRunFilter,
    TaskRunFilterId,
)
from prefect.client.schemas.objects import FlowRun, State, StateType, TaskRun
from prefect.states import Cancelled, Crashed

from flows import FLOW, ROUND
from flows.rows import LIVE, LIVE_TASKS, OVER, RUN_DIR_LABEL, close_children
from zk0.runs.store import RunStore, is_finished

STRAGGLERS_AFTER = timedelta(seconds=30)
"""Events of a task run that are older than its flow run's end by this have come, if they come at all."""
EVENTS_WITHIN_S = 10.0
"""A run that is over waits so long for the last events of its task runs."""
UNTOLD: State[Any] = Crashed(message="its flow run is over; Prefect was not told how this ended")
DELETED: State[Any] = Cancelled(message="its flow run was deleted")
WAITING = [StateType.SCHEDULED, StateType.PAUSED]


def close_left_over(client: SyncPrefectClient) -> None:
    """End task runs and rounds that are still alive long after their flow run's end."""
    over = FlowRunFilter(
        state=_of(OVER),
        # Validated, not constructed: Prefect's type of a time differs between Python 3.12 and 3.13.
        end_time=FlowRunFilterEndTime.model_validate({"before_": datetime.now(UTC) - STRAGGLERS_AFTER}),
    )
    ours = FlowFilter(name=FlowFilterName(any_=[ROUND, FLOW]))
    late = client.read_task_runs(flow_filter=ours, flow_run_filter=over, task_run_filter=LIVE_TASKS, limit=200)
    for task_run in late:
        client.set_task_run_state(task_run.id, UNTOLD, force=True)
    rounds = FlowFilter(name=FlowFilterName(any_=[ROUND]))
    for orphan in client.read_flow_runs(flow_filter=rounds, flow_run_filter=FlowRunFilter(state=_of(LIVE)), limit=200):
        if _parent_is_over(client, orphan):
            state = DELETED if orphan.parent_task_run_id is None else UNTOLD
            close_children(client, orphan.id, state)
            client.set_flow_run_state(orphan.id, state, force=True)


def close_earlier(client: SyncPrefectClient, flow_run: FlowRun, store: RunStore) -> None:
    """End what earlier processes of a run left alive; whoever calls it holds the run's lock.

    Args:
        client: of the server.
        flow_run: that advances the run now.
        store: the run.
    """
    close_children(client, flow_run.id, Crashed(message="its process is gone"))
    for other in _others(client, flow_run, store, LIVE):
        gone: State[Any] = Crashed(message=f"its process is gone; {flow_run.name} goes on with the run")
        close_children(client, other.id, gone)
        client.set_flow_run_state(other.id, gone, force=True)


def close_everything(client: SyncPrefectClient, flow_run: FlowRun, store: RunStore) -> None:
    """End what is alive of a run that is over, after its last events have had time to come.

    Of one that is finished nothing waits for its turn, or to be resumed, either.

    Args:
        client: of the server.
        flow_run: that advanced the run.
        store: the run.
    """
    deadline = time.monotonic() + EVENTS_WITHIN_S
    while (alive := _alive(client, flow_run)) and time.monotonic() < deadline:
        time.sleep(0.5)
    for task_run in alive:
        logger.warning("Prefect was not told how {} ended", task_run.name)
        client.set_task_run_state(task_run.id, UNTOLD, force=True)
    close_children(client, flow_run.id, UNTOLD)  # a round that was begun twice, for the server was away
    if is_finished(store):
        for other in _others(client, flow_run, store, [*LIVE, *WAITING]):
            over: State[Any] = Cancelled(message=f"the run is finished, by {flow_run.name}")
            close_children(client, other.id, over)
            client.set_flow_run_state(other.id, over, force=True)


def _of(types: list[StateType]) -> FlowRunFilterState:
    return FlowRunFilterState(name=None, type=FlowRunFilterStateType(any_=types))


def _alive(client: SyncPrefectClient, flow_run: FlowRun) -> list[TaskRun]:
    """Task runs of the rounds that a flow run has made."""
    rounds = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[flow_run.id]))
    return client.read_task_runs(flow_run_filter=rounds, task_run_filter=LIVE_TASKS, limit=200)


def _others(client: SyncPrefectClient, flow_run: FlowRun, store: RunStore, types: list[StateType]) -> list[FlowRun]:
    """Other flow runs of the run that are in one of these states."""
    found = client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[FLOW])),
        flow_run_filter=FlowRunFilter(state=_of(types), tags=FlowRunFilterTags(all_=[f"run:{store.info.name}"])),
        limit=200,
    )
    ours = str(store.folder)
    return [other for other in found if other.id != flow_run.id and (other.labels or {}).get(RUN_DIR_LABEL) == ours]


def _parent_is_over(client: SyncPrefectClient, child: FlowRun) -> bool:
    """Whether a round's parent ended long ago, or is not there any more."""
    if child.parent_task_run_id is None:  # a round has one always, until it is deleted
        return True
    known = client.read_task_runs(task_run_filter=TaskRunFilter(id=TaskRunFilterId(any_=[child.parent_task_run_id])))
    if not known or known[0].flow_run_id is None:
        return bool(known)
    state = client.read_flow_run(known[0].flow_run_id).state
    return state is not None and state.is_final() and datetime.now(UTC) - state.timestamp > STRAGGLERS_AFTER
