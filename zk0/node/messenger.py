"""Flower's `flwr-clientapp` without the code that a run brings: a node runs what its owner installed, and nothing else.

Flower's own command installs the app that was submitted with a run, and loads the ClientApp from it: code of whoever
can submit runs, beside the recordings. There is no public way to have a SuperNode run an installed app instead. So the
SuperNode finds `flwr-clientapp` in the node's own `bin/`: Flower's command with those functions replaced that install
and load. The other commands that a SuperLink could ask a node to run are refused there.

Flower starts that command once for each message, and takes the message back where it has not begun within 30 s, which a
slow or busy machine needs for its imports alone. So a server that has them done is asked to fork (`serve`).
"""

import json
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from flwr.clientapp import ClientApp
from flwr.supernode.cli.flwr_clientapp import flwr_clientapp
from flwr.supernode.runtime import run_clientapp

from zk0.files import atomic
from zk0.node.desk import WORK_FOLDER

BIN_FOLDER = "bin"
CLIENTAPP = "flwr-clientapp"
REFUSED = ("flwr-agentapp", "flwr-serverapp", "flwr-simulation", "flwr-model", "flwr-connector")
SOCKET = "messenger.sock"
SERVE = "serve"
LOOK_S = 2.0
"""Between two looks at whether the worker that the server belongs to is there."""
MOST_BYTES = 64 * 1024
MOST = 4
"""Messengers at the same time; where Flower thinks that one is lost it starts another, while the first may live."""
PATIENCE_S = 60
"""What a server may take to come up; then a messenger is started without it."""
_SHIM = """\
#!{python} -IS
import json, os, socket, sys, time
words, until = sys.argv[1:], time.monotonic() + {patience}
while time.monotonic() < until:
    try:
        os.chdir({folder!r})
        with socket.socket(socket.AF_UNIX) as server:
            server.settimeout(10)
            server.connect({name!r})
            server.sendall(json.dumps(words).encode())
            server.shutdown(socket.SHUT_WR)
            if said := server.recv(1):
                sys.exit(said != b"1")
    except OSError:
        time.sleep(0.2)
os.execv({python!r}, [{python!r}, "-P", "-m", "zk0.node.messenger", *words])
"""


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
    work = str(home.absolute() / WORK_FOLDER)
    text = _SHIM.format(python=sys.executable, folder=work, name=SOCKET, patience=PATIENCE_S)
    _script(folder / CLIENTAPP, text)
    for name in REFUSED:
        _script(folder / name, f'#!/bin/sh\necho "{name}: a node of zk0 runs none" >&2\nexit 1\n')
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

    os.chdir(home / WORK_FOLDER)  # the path of a socket may have 107 bytes
    os.umask(0o077)
    with suppress(FileNotFoundError):
        Path(SOCKET).unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(SOCKET)
        server.listen(16)
        server.settimeout(LOOK_S)
        living: set[int] = set()
        while os.getppid() == parent:
            with suppress(OSError, ValueError):  # nobody asked; or who asked has gone, or says nothing of ours
                asked = server.accept()[0]
                living = {child for child in living if os.waitpid(child, os.WNOHANG) == (0, 0)}
                _fork(server, asked, living)


def _fork(server: socket.socket, asked: socket.socket, living: set[int]) -> None:
    """One messenger, for who asks for it, unless there are too many; those that live are noted."""
    with asked:
        asked.settimeout(LOOK_S)
        said = b""
        while len(said) < MOST_BYTES and (more := asked.recv(MOST_BYTES)):
            said += more
        words = json.loads(said)
        if len(living) >= MOST:
            asked.sendall(b"0")
            return
        if child := os.fork():
            living.add(child)
            asked.sendall(b"1")
            return
    try:
        server.close()
        main(words)
    finally:
        os._exit(0)  # never back into the server


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


def _script(path: Path, text: str) -> None:
    atomic.write_bytes(path, text.encode())
    with atomic.storage_errors(path, "written"):
        path.chmod(0o755)


if __name__ == "__main__":
    if sys.argv[1] == SERVE:
        serve(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main(sys.argv[1:])
