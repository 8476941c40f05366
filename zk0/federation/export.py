"""A round's policy, written as a whole or not at all."""

import shutil
from pathlib import Path

from zk0.executors.choice import export_policy
from zk0.files import atomic
from zk0.runs.store import RunStore


def export(store: RunStore, number: int, folder: Path, *, merge: bool, client: str | None = None) -> Path:
    """Write the global policy of a round to a folder, which is replaced as a whole.

    Args:
        store: the run.
        number: a committed round.
        folder: where to; an earlier export there is replaced.
        merge: merge the adapters into the weights.
        client: whose own statistics it is normalised by with data.normalization = "own"; the base's when None.
    """
    scratch = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    work = store.task("evaluate", number, client or store.config.clients[0].name, store.state(number))
    export_policy(work, store.config, scratch, merge=merge, own=client is not None)
    if folder.exists():
        atomic.remove_folder(folder)
    atomic.move(scratch, folder)
    return folder
