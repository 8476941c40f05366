"""Starts that wait for their turn: Prefect asks for them seldom, and each of its questions is kept for ever."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from loguru import logger
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateName,
)
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Scheduled

WAITS, COMES_BACK = "AwaitingConcurrencySlot", "AwaitingRetry"
SOON = timedelta(seconds=20)
"""The worker looks ahead; what is due within this it asks for by itself."""
AGAIN_AFTER_S = 15.0


class Queue:
    """Wakes the start that has waited longest as soon as nothing is in its way."""

    def __init__(self) -> None:
        self._next = 0.0

    def wake(self, client: SyncPrefectClient, deployment: UUID, in_the_way: Sequence[FlowRun]) -> None:
        """Have the next start asked for now.

        Args:
            client: of the server.
            deployment: whose starts wait.
            in_the_way: flow runs that live, or will be put back.
        """
        if any(flow_run.deployment_id == deployment for flow_run in in_the_way) or time.monotonic() < self._next:
            return
        states = FlowRunFilterState(type=None, name=FlowRunFilterStateName(any_=[WAITS, COMES_BACK]))
        queued = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment]), state=states),
            limit=200,
        )
        waiting = [flow_run for flow_run in queued if flow_run.state_name == WAITS]
        if not waiting or len(waiting) < len(queued):
            return
        first = min(waiting, key=lambda flow_run: flow_run.created or datetime.now(UTC))
        due = first.next_scheduled_start_time
        if due is None or due <= datetime.now(UTC) + SOON:
            return
        self._next = time.monotonic() + AGAIN_AFTER_S
        turn: State[Any] = Scheduled(scheduled_time=datetime.now(UTC), message="its turn has come")
        client.set_flow_run_state(first.id, turn, force=True)
        logger.info("{}: its turn has come", first.name)
