"""What Prefect's database keeps of runs that are over: so many days of it, of our own flows alone."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from loguru import logger
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterParentTaskRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound

from flows import FLOW, ROUND
from flows.rows import OVER, store_of
from zk0.runs.store import is_finished

AT_ONCE = 20
"""Flow runs that are forgotten in one look: what watches over runs must not wait for it."""
LOOKED_AT = 200
"""Those that are not to be forgotten yet must not hide the others."""
LOOK_EVERY = timedelta(hours=1)


@dataclass
class History:
    """What is kept, and when it is looked at again."""

    keep: timedelta
    """Of a flow run since its end; zero keeps everything."""
    next_look: float = 0.0
    """In seconds of the monotonic clock."""

    def prune(self, client: SyncPrefectClient) -> int:
        """Forget flow runs that ended long ago, with their task runs, logs and artifacts; gives how many.

        The run directories stay as they are, and the flow run of a run that may still go on.
        """
        if not self.keep or time.monotonic() < self.next_look:
            return 0
        old = [flow_run for flow_run in _ended(client, self.keep) if not _goes_on(flow_run)][:AT_ONCE]
        for flow_run in old:
            _forget(client, flow_run)
        if len(old) < AT_ONCE:
            self.next_look = time.monotonic() + min(LOOK_EVERY, self.keep / 4).total_seconds()
        if old:
            logger.info("forgot {} flow runs in Prefect that ended more than {} ago", len(old), self.keep)
        return len(old)


def _ended(client: SyncPrefectClient, ago: timedelta) -> list[FlowRun]:
    """Those without a parent: rounds go with the run."""
    return client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[FLOW, ROUND])),
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(name=None, type=FlowRunFilterStateType(any_=OVER)),
            end_time=FlowRunFilterEndTime.model_validate({"before_": datetime.now(UTC) - ago}),
            parent_task_run_id=FlowRunFilterParentTaskRunId(is_null_=True),
        ),
        limit=LOOKED_AT,
    )


def _goes_on(flow_run: FlowRun) -> bool:
    """Whether its run is neither finished nor stopped: of a flow run that is gone, the run would count as deleted."""
    store = store_of(flow_run)
    return store is not None and store.stopped is None and not is_finished(store)


def _forget(client: SyncPrefectClient, flow_run: FlowRun) -> None:
    of_it = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[flow_run.id]))
    rounds = client.read_flow_runs(flow_run_filter=of_it, limit=LOOKED_AT)
    for one in rounds if len(rounds) == LOOKED_AT else [*rounds, flow_run]:  # of very many, the others next time
        mine = FlowRunFilter(id=FlowRunFilterId(any_=[one.id]))
        try:
            for artifact in client.read_artifacts(flow_run_filter=mine):
                client.delete_artifact(artifact.id)
            client.delete_flow_run(one.id)
        except ObjectNotFound:
            logger.debug("flow run {} is forgotten already", one.name)
