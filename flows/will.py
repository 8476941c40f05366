"""What a person does to a flow run, by UI, command line or API: the work ends at once, and the run remembers it.

A worker tells only of a cancel, and ends the flow's process alone; of a suspension the flow hears between two steps,
and of its deletion never. So every flow looks at itself.
"""

import contextlib
import contextvars
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
from loguru import logger
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import Abort, ExternalSignal, ObjectNotFound, Pause, PrefectException
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Cancelled, Suspended

from flows import FLOW
from flows.rows import close_children
from zk0.errors import Zk0Error
from zk0.executors.choice import stop_work
from zk0.executors.stopping import end_fork_server
from zk0.runs.lock import is_ours
from zk0.runs.store import RunStore
from zk0.runs.will import Want, Will

LOOK_S = 2.0
"""Pause between two looks of a flow at itself."""
BY = "Prefect"
"""Who did it: Prefect does not say which person."""
ENDINGS = (Abort, Pause)
"""What leaves a flow that a person ended; Prefect's engine takes them for no fault."""
PASSING = (httpx.HTTPError, PrefectException, OSError, Zk0Error)
SUSPENDED_FOR = timedelta(days=3650)
"""Prefect itself fails a suspended flow run after five minutes, and then none of its buttons resumes it."""


def wanted(client: SyncPrefectClient, flow_run_id: UUID, database: str) -> Want | None:
    """What a person did to a flow run; None where it is to go on, or nothing can be told.

    Args:
        client: of the server.
        flow_run_id: of the flow run.
        database: the id of the flow when it was begun: a database that was made anew has another one.
    """
    try:
        state = client.read_flow_run(flow_run_id).state
    except ObjectNotFound:
        return "deleted" if database_id(client) == database else None
    if state is None:
        return None
    if state.type in (StateType.CANCELLING, StateType.CANCELLED):
        return "cancelled"
    return "suspended" if state.type == StateType.PAUSED else None


def database_id(client: SyncPrefectClient) -> str | None:
    """What no other database of Prefect has: the id of our flow; None where it does not know that."""
    try:
        return str(client.read_flow_by_name(FLOW).id)
    except ObjectNotFound:
        return None


def obey(store: RunStore) -> None:
    """Leave the flow where a person ended it.

    Raises:
        Pause, Abort: they did.
    """
    if (end := store.stopped) is not None:
        raise _ending(end)


def _ending(end: Will) -> Pause | Abort:
    return Pause(end.words) if end.what == "suspended" else Abort(end.words)


@contextlib.contextmanager
def heard(store: RunStore, flow_run: FlowRun) -> Iterator[None]:
    """End the work as soon as a person cancels, suspends or deletes the flow run, and write down that they did.

    Whoever advances the run looks at `obey` between its steps. An error that a step ends with once they have done so
    means nothing: its process was ended.

    Args:
        store: the run, whose lock is held.
        flow_run: that advances it.

    Raises:
        Pause, Abort: they did.
    """
    ended = threading.Event()
    context = contextvars.copy_context()  # with the settings of this flow: where the server is
    watcher = threading.Thread(target=context.run, args=(_watch, store, flow_run, ended), name="zk0-will", daemon=True)
    watcher.start()
    try:
        yield
    except ENDINGS:
        _settled(store, flow_run)
        raise
    except Exception as error:
        with contextlib.suppress(*PASSING), client() as prefect:
            _look(prefect, store, flow_run)  # of a flow run that was deleted, Prefect refuses the next call
        if (end := _settled(store, flow_run)) is None:
            raise
        raise _ending(end) from error
    finally:
        ended.set()


def _settled(store: RunStore, flow_run: FlowRun) -> Will | None:
    """Tell Prefect what a person did, where they did anything, and give it."""
    end = None
    with contextlib.suppress(*PASSING):
        end = store.stopped
        if end is not None:
            settle(flow_run, end.what, end.words)
    return end


@contextlib.contextmanager
def ended_by_signal(store: RunStore, flow_run: FlowRun) -> Iterator[None]:
    """End the work of a flow that is ended in its first moments, what a killed one left of it too; write down by whom.

    Args:
        store: the run that the flow advances, or is about to.
        flow_run: that advances it.
    """
    try:
        yield
    except ObjectNotFound:  # its flow run was deleted, or the server has another database, and nobody ended anything
        with contextlib.suppress(*PASSING), client() as prefect:
            if _is_free(store) and _look(prefect, store, flow_run):
                _stop(store)
        raise
    except (ExternalSignal, *ENDINGS) as error:  # by its worker; see `early`
        done = isinstance(error, ENDINGS) and store.stopped is not None
        if not done and _is_free(store):
            _stop(store)
            with contextlib.suppress(*PASSING), client() as prefect:
                _look(prefect, store, flow_run)
        raise


def _is_free(store: RunStore) -> bool:
    return is_ours(store.folder) or store.holder() is None


def _watch(store: RunStore, flow_run: FlowRun, ended: threading.Event) -> None:
    while not ended.wait(LOOK_S):
        with contextlib.suppress(*PASSING), client() as prefect:
            while not _look(prefect, store, flow_run):
                if ended.wait(LOOK_S):
                    return
            _stop(store)
            return


def _stop(store: RunStore) -> None:
    end_fork_server()
    stop_work(str(store.folder), store.config)


@contextlib.contextmanager
def client() -> Iterator[SyncPrefectClient]:
    """For a short question: one that fails is asked again soon."""
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(sync_client=True) as prefect:
        yield prefect


def _look(prefect: SyncPrefectClient, store: RunStore, flow_run: FlowRun) -> bool:
    """Write down what a person did to the flow run; gives whether they did anything."""
    if store.stopped is not None:
        return True
    what = wanted(prefect, flow_run.id, str(flow_run.flow_id))
    if what is None:
        return False
    logger.info("run {} was {} in Prefect: ending its work", store.info.name, what)
    store.mark_stopped(what, BY, f"flow run {flow_run.name}")
    return True


def settle(flow_run: FlowRun, what: Want, words: str) -> None:
    """Leave nothing in Prefect that looks alive of a flow run that a person ended.

    Args:
        flow_run: that one.
        what: they did.
        words: for its page.
    """
    with client() as prefect:
        over: State[Any] = Cancelled(message=words)
        close_children(prefect, flow_run.id, over)
        if what == "cancelled":
            prefect.set_flow_run_state(flow_run.id, over, force=True)
        if what == "suspended":
            until = datetime.now(UTC) + SUSPENDED_FOR
            again: State[Any] = Suspended(pause_expiration_time=until, message=f"{words}; Resume goes on with it")
            prefect.set_flow_run_state(flow_run.id, again, force=True)
