"""A round's policy, written as a whole or not at all."""

import shutil
from pathlib import Path

from zk0.config.paths import check_target
from zk0.errors import RunNameError
from zk0.executors.choice import export_policy
from zk0.files import atomic
from zk0.runs.store import RunStore


def export_round(
    store: RunStore, out: Path, server_round: int | None = None, *, merge: bool = False, client: str | None = None
) -> Path:
    """Write the policy of a round that a person names, into a folder that is not there yet.

    Args:
        store: the run.
        out: the folder.
        server_round: a committed round; the newest when None.
        merge: merge the adapters into the weights.
        client: as for `export`.

    Raises:
        RunNameError: no such round or client, or the folder exists.
        ConfigError: the folder cannot be made.
    """
    name, committed = store.info.name, store.committed_rounds()
    if not committed or (server_round is not None and server_round not in committed):
        kept = ", ".join(map(str, committed)) or "none"
        raise RunNameError(f"round {server_round}: run {name!r} has no such round; committed and kept: {kept}")
    if client is not None and client not in (known := [item.name for item in store.config.clients]):
        raise RunNameError(f"client {client!r}: run {name!r} has no such client; it has {', '.join(known)}")
    target = check_target("out", out)
    if atomic.is_there(target):
        raise RunNameError(f"out = {str(out)!r}: exists; choose a folder that does not")
    with atomic.storage_errors(target, "written"):
        target.parent.mkdir(parents=True, exist_ok=True)
    number = committed[-1] if server_round is None else server_round
    return export(store, number, target, merge=merge, client=client)


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
    if atomic.is_there(folder):
        atomic.remove_folder(folder)
    atomic.move(scratch, folder)
    return folder
