"""What Prefect has of flow and task runs: which may need help, and how those of a dead one are closed."""

import contextlib
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType

from zk0 import errors
from zk0.runs.store import RunStore

RUN_DIR_LABEL = "zk0.run_dir"
"""Label of a flow run: the run directory that it advances."""
FORGET_AFTER = timedelta(days=7)
"""Crashed and failed flow runs older than this are history."""
LIVE = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
DEAD = [StateType.CRASHED, StateType.FAILED]
OVER = [*DEAD, StateType.COMPLETED, StateType.CANCELLED]
LIVE_TASKS = TaskRunFilter(
    state=TaskRunFilterState(name=None, type=TaskRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING]))
)
GIVEN_UP = "given up"
NEVER_PASSES = {
    name
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.Zk0Error) and kind.repeats
}
"""Errors that another attempt meets again."""
RAISED = re.compile(r"(?:^|encountered an exception: )(\w+): ")
"""The class of an error in the message of the state that it led to; words of the error's own come after."""


def may_need_help(flow_run: FlowRun) -> bool:
    """Whether a flow run is worth a closer look, by what Prefect says of it alone."""
    state = flow_run.state
    assert state is not None
    if state.type in LIVE:
        return True
    if state.type not in DEAD:
        return False
    # A run that `zk0 run` started has no deployment, so no worker would take it: see recovery._is_abandoned.
    hopeless = state.type == StateType.FAILED and never_passes(state.message)
    given_up = (state.message or "").startswith(GIVEN_UP)
    forgotten = datetime.now(UTC) - state.timestamp > FORGET_AFTER
    return flow_run.deployment_id is not None and not forgotten and not hopeless and not given_up


def never_passes(message: str | None) -> bool:
    """Whether a failed state's message is of an error that another attempt meets again."""
    raised = RAISED.search(message or "")
    return raised is not None and raised[1] in NEVER_PASSES


def store_of(flow_run: FlowRun) -> RunStore | None:
    """The run that a flow run advances; None where it has none yet, or it cannot be read."""
    folder = (flow_run.labels or {}).get(RUN_DIR_LABEL)
    with contextlib.suppress(errors.Zk0Error):
        return RunStore.open(str(folder)) if folder else None
    return None


def close_children(client: SyncPrefectClient, flow_run_id: UUID, state: State[Any]) -> None:
    """Give the task runs and subflows of a flow run that is over their last state; else they would stay `Running`."""
    of_it = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    for task_run in client.read_task_runs(flow_run_filter=of_it, task_run_filter=LIVE_TASKS, limit=200):
        client.set_task_run_state(task_run.id, state, force=True)
    rounds = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[flow_run_id]),
            state=FlowRunFilterState(name=None, type=FlowRunFilterStateType(any_=LIVE)),
        ),
        limit=200,
    )
    for flow_run in rounds:
        close_children(client, flow_run.id, state)
        client.set_flow_run_state(flow_run.id, state, force=True)
