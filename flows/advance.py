"""Which run directory a flow run advances, and how its page in Prefect names it."""

import contextlib
from collections.abc import Iterator

from prefect import get_client
from prefect.context import FlowRunContext

from zk0.executors.choice import warm_up
from zk0.federation.start import advancing, choose_run
from zk0.runs.store import RunStore

RUN_DIR_LABEL = "zk0.run_dir"
"""Label of a flow run: the run directory that it advances."""


@contextlib.contextmanager
def advanced_run(config: str, overrides: list[str], name: str | None) -> Iterator[RunStore]:
    """The run that this flow run advances: locked, logging, and named on the flow run's page.

    A flow run that is put back after a crash goes on with the run that it had, whatever has come after.
    """
    context = FlowRunContext.get()
    flow_run = context.flow_run if context else None
    mine = (flow_run.labels or {}).get(RUN_DIR_LABEL) if flow_run else None
    store = RunStore.open(str(mine)) if mine else choose_run(config, overrides, name)
    warm_up(store.config)
    if flow_run:
        tag = f"run:{store.info.name}"
        with get_client(sync_client=True) as client:
            client.update_flow_run_labels(flow_run.id, {RUN_DIR_LABEL: str(store.folder)})
            client.update_flow_run(flow_run.id, name=store.info.name, tags=sorted({*flow_run.tags, tag}))
    with advancing(store):
        yield store
