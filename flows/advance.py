"""Which run directory a flow run advances, and how its page in Prefect names it."""

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from coolname.data import config as word_lists
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows import early
from flows.closing import close_earlier, close_everything
from flows.rows import RUN_DIR_LABEL
from flows.turn import own_turn
from flows.will import PASSING, ended_by_signal, heard
from zk0.errors import Zk0Error
from zk0.executors.choice import warm_up
from zk0.federation.start import advancing, check_recordings, choose_run, folder_of
from zk0.runs import served
from zk0.runs.lock import is_ours
from zk0.runs.served import Served
from zk0.runs.store import RunStore

_PARTS: Any = word_lists
INVENTED: set[str] = {word for part in _PARTS.values() for word in part.get("words", ())}
"""Words of the names that Prefect gives where a person gave none: two of them."""
GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon phi chi "
    "psi omega"
)
FILLED_IN = re.compile(rf"({'|'.join(GREEK.split())})[0-9]{{0,3}}(-[a-z]+)*")
"""Names that the form of Prefect's pages fills in, of stars and scholars; a person may mean such a one, too."""


@contextlib.contextmanager
def advanced_run(config: str, overrides: Sequence[str]) -> Iterator[RunStore]:
    """The run that this flow run advances: locked, logging, and named on the flow run's page.

    A flow run that is put back after a crash goes on with the run that it had, whatever has come after.

    Args:
        config: as of the flow.
        overrides: all of them.
    """
    context = FlowRunContext.get()
    flow_run = context.flow_run if context else None
    mine = str((flow_run.labels or {}).get(RUN_DIR_LABEL) or "") if flow_run else ""
    with early.heard(flow_run) as enough, own_turn(flow_run, folder_of(mine or config, overrides)):
        store = RunStore.open(mine) if mine else _chosen(config, overrides, flow_run)
        warm_up(store.config)
        if flow_run is None:
            _check(store)
            with advancing(store):
                yield store
            return
        with ended_by_signal(store, flow_run):
            _show(flow_run, store)
            _check(store)
            with advancing(store):
                served.write(store.folder, Served(flow_run=str(flow_run.id), database=str(flow_run.flow_id)))
                with heard(store, flow_run), _nothing_left_alive(store, flow_run):
                    enough()
                    yield store


@contextlib.contextmanager
def _nothing_left_alive(store: RunStore, flow_run: FlowRun) -> Iterator[None]:
    """Close what earlier processes of the run left alive in Prefect, and at its end everything."""
    _closed(close_earlier, flow_run, store)
    try:
        yield
    except Zk0Error:
        if store.stopped is None:  # else a person ended it, which `heard` tells
            _closed(close_everything, flow_run, store)
        raise
    _closed(close_everything, flow_run, store)


def _closed(close: Callable[[SyncPrefectClient, FlowRun, RunStore], None], flow_run: FlowRun, store: RunStore) -> None:
    """It only shows: a server that is away is not waited for."""
    with (
        contextlib.suppress(*PASSING),
        temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
        get_client(sync_client=True) as client,
    ):
        close(client, flow_run, store)


def _check(store: RunStore) -> None:
    """See that the run's recordings are still its own; a run of `zk0 run` or `zk0 resume` has been checked."""
    if not is_ours(store.folder):
        check_recordings(store)


def settings(continue_from: str | None, outputs_dir: str | None) -> list[str]:
    """The flow's own parameters as overrides; what is empty is as the config has it."""
    given = {"outputs_dir": outputs_dir, "continue_from": continue_from}
    return [f"{key}={json.dumps(value)}" for key, value in given.items() if value]


def run_name(flow_run_name: str) -> str | None:
    """The run's name that a person means by a flow run's; None where Prefect invented that."""
    words = flow_run_name.split("-")
    if len(words) == 2 and all(word in INVENTED for word in words):
        return None
    return re.sub(r"[^a-z0-9_.-]+", "-", flow_run_name.lower()).strip("-._")[:63] or None


def _chosen(config: str, overrides: Sequence[str], flow_run: FlowRun | None) -> RunStore:
    name = run_name(flow_run.name) if flow_run else None
    by_hand = not (flow_run and flow_run.auto_scheduled)
    if name is not None and FILLED_IN.fullmatch(name):
        return choose_run(config, list(overrides), None, by_hand=by_hand, suggested=name)
    return choose_run(config, list(overrides), name, by_hand=by_hand)


def _show(flow_run: FlowRun, store: RunStore) -> None:
    """Name the run on the flow run's page; the page keeps the name that a person gave it."""
    name = flow_run.name if run_name(flow_run.name) else store.info.name
    with get_client(sync_client=True) as client:
        client.update_flow_run_labels(flow_run.id, {RUN_DIR_LABEL: str(store.folder)})
        tags = sorted({*flow_run.tags, f"run:{store.info.name}"})
        client.update_flow_run(flow_run.id, name=name, tags=tags)
