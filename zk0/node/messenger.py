"""Flower's `flwr-clientapp` without the code that a run brings: a node runs what its owner installed, and nothing else.

Flower's own command installs the app that was submitted with a run, and loads the ClientApp from it: code of whoever
can submit runs, beside the recordings. There is no public way to have a SuperNode run an installed app instead. So the
SuperNode finds `flwr-clientapp` in the node's own `bin/`, which runs this module: Flower's command with those functions
replaced that install and load. The other commands that a SuperLink could ask a node to run are refused there.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from flwr.clientapp import ClientApp
from flwr.supernode.cli.flwr_clientapp import flwr_clientapp
from flwr.supernode.runtime import run_clientapp

from zk0.files import atomic

BIN_FOLDER = "bin"
CLIENTAPP = "flwr-clientapp"
REFUSED = ("flwr-agentapp", "flwr-serverapp", "flwr-simulation", "flwr-model", "flwr-connector")


def shims(home: Path) -> Path:
    """Write the commands that a node's SuperNode is to find first in PATH.

    Args:
        home: of the node.

    Returns:
        Their folder.

    Raises:
        StorageError: it cannot be written.
    """
    folder = home / BIN_FOLDER
    _script(folder / CLIENTAPP, f'exec "{sys.executable}" -m zk0.node.messenger "$@"')
    for name in REFUSED:
        _script(folder / name, f'echo "{name}: a node of zk0 runs none" >&2; exit 1')
    return folder


def main() -> None:
    """What `flwr-clientapp` does, with the installed ClientApp."""
    for name, ours in REPLACED.items():
        if not callable(getattr(run_clientapp, name, None)):
            sys.exit(f"this version of Flower has no run_clientapp.{name}: zk0 does not know how to keep code out")
        setattr(run_clientapp, name, ours)
    flwr_clientapp()


def _nothing(*_: object, **__: object) -> None:
    """Install nothing."""


def _no_folder(*_: object, **__: object) -> Path:
    return Path()


def _installed(*_: object, **__: object) -> Callable[..., ClientApp]:
    from zk0.node.app import app

    return lambda *_: app


REPLACED: dict[str, Callable[..., object]] = {
    "install_from_fab": _nothing,
    "get_project_dir": _no_folder,
    "get_load_client_app_fn": _installed,
}
"""Function of Flower's module -> what takes its place."""


def _script(path: Path, line: str) -> None:
    atomic.write_bytes(path, f"#!/bin/sh\n{line}\n".encode())
    with atomic.storage_errors(path, "written"):
        path.chmod(0o755)


if __name__ == "__main__":
    main()
