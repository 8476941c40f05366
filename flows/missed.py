"""Starts that a schedule meant while nobody served: after days away the newest of them is caught up, and no other."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from loguru import logger
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Cancelled

from flows.rows import RUN_DIR_LABEL


def skip_missed(client: SyncPrefectClient, deployment: UUID) -> None:
    """Cancel every scheduled start whose time has come and that has not begun, but the newest.

    Args:
        client: of the server.
        deployment: whose schedule it is.
    """
    waiting = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(any_=[deployment]),
            state=FlowRunFilterState(name=None, type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        ),
        limit=200,
    )
    due = sorted((start for start in waiting if _is_due(start)), key=_when)
    for start in due[:-1]:
        skipped: State[Any] = Cancelled(message=f"missed; {due[-1].name} catches up on all that were missed")
        client.set_flow_run_state(start.id, skipped)
        logger.info("scheduled start {} of {:%Y-%m-%d %H:%M} was missed and is skipped", start.name, _when(start))


def _is_due(start: FlowRun) -> bool:
    begun = start.run_count or RUN_DIR_LABEL in (start.labels or {})
    return start.auto_scheduled and not begun and _when(start) <= datetime.now(UTC)


def _when(start: FlowRun) -> datetime:
    return start.expected_start_time or datetime.now(UTC)
