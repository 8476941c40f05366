"""Puts back flow runs whose process is gone, and runs on the disk that Prefect does not know, by the run's lock.

Prefect alone does not do it: a run whose worker and server died with it stays `Running` for ever. Here, a flow run is
dead when nobody holds its run's lock and no process executes it, on whichever machine: see `alive`.
"""

import contextlib
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from loguru import logger
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import AwaitingRetry, Cancelled, Crashed

from flows import FLOW, will
from flows.alive import is_alive, serves_alone
from flows.closing import close_left_over
from flows.missed import skip_missed
from flows.queue import Queue
from flows.register import deployment_id
from flows.rows import DEAD, GIVEN_UP, LIVE, RUN_DIR_LABEL, close_children, is_out_of_reach, may_need_help, store_of
from zk0 import errors
from zk0.executors.choice import stop_work
from zk0.layout import CLIENTS_FOLDER, LOCK_FILE, result_file
from zk0.runs import processes, served
from zk0.runs.store import RunStore, is_finished
from zk0.runs.will import Want

GRACE_S = 6.0
"""A flow run must be seen dead for so long: a worker that lives reports the death too, and must have done so before."""
MAX_ATTEMPTS = 5
"""Attempts without anything new in the run directory; then a person must look."""
FIRST_PAUSE_S = 10.0
LONGEST_PAUSE_S = 900.0
DISK_PAUSE_S = 15.0
FINISHED = tuple(result_file(kind) for kind in ("train", "evaluate", "rollout"))
"""Files that say that a piece of a round's work is finished."""
TAG = "zk0"

ENDED_BY_HAND: dict[StateType, Want] = {
    StateType.CANCELLING: "cancelled",
    StateType.CANCELLED: "cancelled",
    StateType.PAUSED: "suspended",
}
LATELY = timedelta(days=1)
"""What was cancelled longer ago was remembered then."""
PROGRESS_LABEL = "zk0.progress"
ATTEMPTS_LABEL = "zk0.attempts"


@dataclass
class Memory:
    """What sweeps keep in mind, in seconds of the monotonic clock."""

    dead: dict[UUID, float] = field(default_factory=dict)
    """Flow run -> when it was first seen dead."""
    next_look_at_disk: float = 0.0
    """When the run directories are looked through again."""
    queue: Queue = field(default_factory=Queue)
    """Of starts that wait for their turn."""


def sweep(client: SyncPrefectClient, outputs: Path, memory: Memory, pool: str) -> bool:
    """Put back everything that needs it.

    Args:
        client: of the server.
        outputs: the folder of the runs.
        memory: of earlier sweeps; kept up to date.
        pool: the work pool.

    Returns:
        Whether the server knows our deployments; False means that its database is new.
    """
    deployment = deployment_id(client)
    if deployment is None:
        return False
    _keep_wills(client)
    candidates = [flow_run for flow_run in _flow_runs(client, LIVE + DEAD) if may_need_help(flow_run)]
    # Of what is out of reach nobody knows whether a person stopped it: the next look does what is to be done.
    candidates = [flow_run for flow_run in candidates if not is_out_of_reach(flow_run) and not _rests(flow_run)]
    memory.queue.wake(client, deployment, candidates)
    alone = not candidates or serves_alone(client, pool)
    dead = {flow_run.id: flow_run for flow_run in candidates if not is_alive(flow_run, outputs, alone=alone)}
    now = time.monotonic()
    memory.dead = {known: memory.dead.get(known, now) for known in dead}
    for flow_run in dead.values():
        if now - memory.dead[flow_run.id] >= GRACE_S:
            del memory.dead[flow_run.id]
            _recover(client, flow_run)
    if now >= memory.next_look_at_disk and outputs.is_dir():
        memory.next_look_at_disk = now + DISK_PAUSE_S
        _take_up_abandoned(client, outputs, deployment)
        close_left_over(client)
        skip_missed(client, deployment)
        processes.forget(outputs)
    return True


def _take_up_abandoned(client: SyncPrefectClient, outputs: Path, deployment: UUID) -> None:
    """Give every unfinished run that Prefect will not advance a new flow run of the deployment."""
    for store in RunStore.list_runs(outputs):
        if not is_finished(store) and _is_abandoned(client, store):
            parameters: dict[str, Any] = {"config": str(store.folder), "overrides": []}
            made = client.create_flow_run_from_deployment(
                deployment, parameters=parameters, name=store.info.name, tags=[TAG, f"run:{store.info.name}"]
            )
            client.update_flow_run_labels(made.id, {RUN_DIR_LABEL: str(store.folder)})
            logger.info("run {} has no flow run: taken up by a new one", store.info.name)


def _keep_wills(client: SyncPrefectClient) -> None:
    """Remember what a person did to a flow run that no process had, or whose process died in its first moments.

    What a killed process left at work is ended, too; a flow that lives does all of it itself.
    """
    lately = FlowRunFilterEndTime.model_validate({"after_": datetime.now(UTC) - LATELY})
    ended = _flow_runs(client, [StateType.CANCELLED], end_time=lately)
    for flow_run in [*_flow_runs(client, [StateType.CANCELLING, StateType.PAUSED]), *ended]:
        store = store_of(flow_run)
        with contextlib.suppress(errors.Zk0Error):  # of one run, which the look at the disk names
            if store is not None and _was_ended(store, flow_run):
                assert flow_run.state is not None
                _end(store, ENDED_BY_HAND[flow_run.state.type], f"flow run {flow_run.name}")


def _was_ended(store: RunStore, flow_run: FlowRun) -> bool:
    """Whether a person ended a run by this flow run, while no process had it, and nobody has written it down."""
    if store.holder() is not None or store.stopped is not None or is_finished(store):
        return False
    known = served.read(store.folder)
    assert flow_run.state is not None
    mine = known is None or known.flow_run == str(flow_run.id)
    return mine and flow_run.state.timestamp.timestamp() > _touched(store)


def _end(store: RunStore, what: Want, why: str) -> None:
    """Write down what a person did, and end what is still at work."""
    store.mark_stopped(what, will.BY, why)
    stop_work(str(store.folder), store.config)
    logger.info("run {}: {}; it stands still", store.info.name, why)


def _touched(store: RunStore) -> float:
    """When a process last took the run's lock, in seconds since the epoch."""
    lock = store.folder / LOCK_FILE
    return (lock if lock.exists() else store.folder).stat().st_mtime


def pause_before(attempt: int) -> float:
    """Seconds before an attempt without progress: none before the first, then growing threefold."""
    return 0.0 if attempt < 2 else min(FIRST_PAUSE_S * 3.0 ** (attempt - 2), LONGEST_PAUSE_S)


def _recover(client: SyncPrefectClient, flow_run: FlowRun) -> None:
    """Make the history of a dead flow run true, and put it back unless nothing would come of it."""
    state = flow_run.state
    assert state is not None
    reason = _reason(state)
    close_children(client, flow_run.id, Crashed(message=reason))
    store = store_of(flow_run)
    if state.type == StateType.CANCELLING:
        if store is not None and store.stopped is None and not is_finished(store):
            _end(store, "cancelled", f"flow run {flow_run.name}")
        client.set_flow_run_state(flow_run.id, Cancelled(message="cancelled; its process is gone"))
        return
    if store is not None and (wish := store.stopped) is not None:
        client.set_flow_run_state(flow_run.id, Cancelled(message=wish.words), force=True)
        return
    if state.type in LIVE:
        client.set_flow_run_state(flow_run.id, Crashed(message=reason))  # gives its concurrency slot back
    if flow_run.deployment_id is None:
        return
    progress = _progress(flow_run)
    labels: dict[str, Any] = dict(flow_run.labels or {})
    attempt = 1 + (int(labels.get(ATTEMPTS_LABEL, 0)) if labels.get(PROGRESS_LABEL) == progress else 0)
    if attempt > MAX_ATTEMPTS:
        message = f"{GIVEN_UP} after {MAX_ATTEMPTS} attempts without progress; `zk0 resume` goes on. Last: {reason}"
        client.set_flow_run_state(flow_run.id, Crashed(message=message), force=True)
        logger.error("{}: {}", flow_run.name, message)
        return
    pause = pause_before(attempt)
    message = f"put back in {pause:.0f} s, attempt {attempt} of {MAX_ATTEMPTS} without progress. Before: {reason}"
    client.update_flow_run_labels(flow_run.id, {PROGRESS_LABEL: progress, ATTEMPTS_LABEL: attempt})
    again: State[Any] = AwaitingRetry(scheduled_time=datetime.now(UTC) + timedelta(seconds=pause), message=message)
    outcome = client.set_flow_run_state(flow_run.id, again)
    logger.info("{}: {} ({})", flow_run.name, message, outcome.status.value)


def _is_abandoned(client: SyncPrefectClient, store: RunStore) -> bool:
    """Whether an unfinished run has no flow run that will advance it, and no person has stopped it."""
    if store.stopped or store.holder() is not None:
        return False
    known = served.read(store.folder)
    if known is not None and will.wanted(client, UUID(known.flow_run), known.database) == "deleted":
        _end(store, "deleted", "its flow run is not there any more")
        return False
    if time.time() - _touched(store) < 2 * GRACE_S:
        return False
    newest = next(
        (
            run
            for run in _flow_runs(client, [], f"run:{store.info.name}")
            if (run.labels or {}).get(RUN_DIR_LABEL) == str(store.folder)
        ),
        None,
    )
    if newest is None or newest.state is None:
        return True
    # A crashed `zk0 run` has no deployment that could run it again.
    return newest.deployment_id is None and newest.state.type == StateType.CRASHED


def _flow_runs(
    client: SyncPrefectClient,
    types: list[StateType],
    tag: str | None = None,
    end_time: FlowRunFilterEndTime | None = None,
) -> list[FlowRun]:
    """Flow runs of the federated training, newest first."""
    state = FlowRunFilterState(name=None, type=FlowRunFilterStateType(any_=types)) if types else None
    return client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[FLOW])),
        flow_run_filter=FlowRunFilter(
            state=state, tags=FlowRunFilterTags(all_=[tag]) if tag else None, end_time=end_time
        ),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=200,
    )


def _rests(flow_run: FlowRun) -> bool:
    """Whether a flow run that is over is to stay so, for a person stopped its run."""
    assert flow_run.state is not None
    store = store_of(flow_run) if flow_run.state.type in DEAD else None
    return store is not None and store.stopped is not None


def _reason(state: State[Any]) -> str:
    if state.type == StateType.RUNNING:
        return "its process is gone: killed, or the machine restarted"
    if state.type == StateType.PENDING:
        return "it never started: its worker is gone"
    return " ".join((state.message or state.name or "unknown").split())


def _progress(flow_run: FlowRun) -> str:
    """What a run has to show: committed rounds, and finished pieces of work since; a number that only grows."""
    store = store_of(flow_run)
    if store is None:
        return "-"
    committed = max(store.committed_rounds(), default=-1)
    clients = store.round_folder(committed + 1) / CLIENTS_FOLDER
    finished = [entry for entry in clients.glob("*/*.json") if entry.name in FINISHED]
    return f"{committed}.{len(finished)}"
