"""Requests as a run makes them."""

import time
from pathlib import Path
from typing import Any

from tests.unit.runs.made import make_config, weights
from zk0.link.wire import Request, terms
from zk0.runs.store import RunStore
from zk0.work.records import ClientTask


def make_run(folder: Path, **changes: Any) -> RunStore:
    """A run over a link, with its first round's tensors."""
    executor = {"kind": "superlink", "link": str(folder / "link"), **changes.pop("executor", {})}
    return RunStore.create_or_open(make_config(folder / "outputs", executor=executor, **changes), "run")


def make_task(store: RunStore) -> ClientTask:
    """A fit of round 1."""
    arrays = store.place(0, "global", weights(0))
    return store.task("train", 1, "left").model_copy(update={"incoming": arrays})


def make_request(store: RunStore, task: ClientTask, ask: str = "a" * 32, **changes: Any) -> Request:
    """The request for it."""
    found = Request(
        ask=ask,
        what="work",
        client=task.client,
        key=task.key,
        run=store.info.name,
        task=task.model_copy(update={"run_dir": ""}),
        terms=terms(store.config, task.client).model_dump(mode="json"),
        files=[task.incoming] if task.incoming else [],
        until=time.time() + 60,
    )
    return found.model_copy(update=changes)
