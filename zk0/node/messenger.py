"""Flower's `flwr-clientapp` without the code that a run brings: a node runs what its owner installed, and nothing else.

Flower's own command installs the app that was submitted with a run, and loads the ClientApp from it: code of whoever
can submit runs, beside the recordings. There is no public way to have a SuperNode run an installed app instead. So the
SuperNode finds `flwr-clientapp` in the node's own `bin/`: Flower's command with those functions replaced that install
and load. The other commands that a SuperLink could ask a node to run are refused there.

Flower starts that command once for each message, and takes the message back where it has not begun within 30 s, which a
slow or busy machine needs for its imports alone. So a server that has them done is asked to fork (`serve`).
"""

import sys
from collections.abc import Callable
from pathlib import Path

from flwr.clientapp import ClientApp
from flwr.supernode.cli.flwr_clientapp import flwr_clientapp
from flwr.supernode.runtime import run_clientapp

from zk0.node.desk import WORK_FOLDER
from zk0.services import forking

BIN_FOLDER = "bin"
CLIENTAPP = "flwr-clientapp"
REFUSED = ("flwr-agentapp", "flwr-serverapp", "flwr-simulation", "flwr-model", "flwr-connector")
SOCKET = "messenger.sock"
SERVE = "serve"
MOST = 4
"""Messengers at the same time; where Flower thinks that one is lost it starts another, while the first may live."""


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
    forking.write_shim(folder / CLIENTAPP, home / WORK_FOLDER, SOCKET, ["-m", "zk0.node.messenger"])
    for name in REFUSED:
        forking.write_script(folder / name, f'#!/bin/sh\necho "{name}: a node of zk0 runs none" >&2\nexit 1\n')
    return folder


def main(words: list[str]) -> None:
    """What `flwr-clientapp` does, with the installed ClientApp.

    Args:
        words: its arguments.
    """
    for name, ours in REPLACED.items():
        if not callable(getattr(run_clientapp, name, None)):
            sys.exit(f"this version of Flower has no run_clientapp.{name}: zk0 does not know how to keep code out")
        setattr(run_clientapp, name, ours)
    sys.argv = [CLIENTAPP, *words]
    flwr_clientapp()


def serve(home: Path, parent: int) -> None:
    """Fork a messenger whenever one is asked for, for as long as the process lives that started this one.

    Args:
        home: of the node.
        parent: id of that process, which may have died during the imports.
    """
    from zk0.node import app  # noqa: F401 - so that a fork has it

    forking.serve(home / WORK_FOLDER, SOCKET, parent, main, MOST)


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


if __name__ == "__main__":
    if sys.argv[1] == SERVE:
        serve(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main(sys.argv[1:])
