"""Which run directory a flow run advances, and how its page in Prefect names it."""

import contextlib
from collections.abc import Iterator

from prefect import get_client, tags
from prefect.context import FlowRunContext

from zk0.executors.process import ProcessExecutor
from zk0.federation.start import choose_run
from zk0.logs.setup import setup_orchestrator
from zk0.memory.sampler import watched
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
    if store.config.executor.kind == "process":  # else 800 MB for little: only the last export needs a worker here
        ProcessExecutor(store.config.executor).warm_up()
    if flow_run:
        tag = f"run:{store.info.name}"
        with get_client(sync_client=True) as client:
            client.update_flow_run_labels(flow_run.id, {RUN_DIR_LABEL: str(store.folder)})
            client.update_flow_run(flow_run.id, name=store.info.name, tags=sorted({*flow_run.tags, tag}))
    setup_orchestrator(store.folder, store.config.logging)
    with (
        store.lock(),
        watched(store.folder, store.config.memory.sample_interval_s),
        tags(f"run:{store.info.name}"),
    ):
        yield store
