"""Processes that begin in a moment: a server with their imports done is asked to fork, by a script of plain Python.

Flower starts its apps by a command each, and takes a task back whose app has not begun within 30 s, which a slow or
busy machine needs for the imports alone.
"""

import json
import os
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from zk0.files import atomic

LOOK_S = 2.0
"""Between two looks at whether the process that the server belongs to is there."""
MOST_BYTES = 64 * 1024
PATIENCE_S = 60
"""What a server may take to come up; then the process is started without it."""
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
os.execv({python!r}, [{python!r}, "-P", *{module!r}, *words])
"""


def write_shim(path: Path, folder: Path, name: str, module: Sequence[str]) -> None:
    """Write the script that asks a server.

    Args:
        path: of the script.
        folder: of the server's socket.
        name: of that socket.
        module: what Python does where there is no server, as words of its command line.

    Raises:
        StorageError: it cannot be written.
    """
    where = str(folder.absolute())
    write_script(
        path,
        _SHIM.format(python=sys.executable, folder=where, name=name, patience=PATIENCE_S, module=[*module]),
    )


def write_script(path: Path, text: str) -> None:
    """Write something that can be started.

    Raises:
        StorageError: it cannot be written.
    """
    atomic.write_bytes(path, text.encode())
    with atomic.storage_errors(path, "written"):
        path.chmod(0o755)


def serve(folder: Path, name: str, parent: int, main: Callable[[list[str]], None], most: int) -> None:
    """Fork a process whenever one is asked for, for as long as the process lives that started this one.

    Args:
        folder: of the socket.
        name: of the socket; the path of one may have 107 bytes, so this process goes to its folder.
        parent: id of that process, which may have died during the imports.
        main: what a process does, with the words that it was asked for by.
        most: processes at the same time.
    """
    os.chdir(folder)
    with suppress(FileNotFoundError):
        Path(name).unlink()
    with socket.socket(socket.AF_UNIX) as server:
        ours = os.umask(0o077)
        server.bind(name)
        os.umask(ours)  # what is forked writes files that a container's user may have to read
        server.listen(16)
        server.settimeout(LOOK_S)
        living: set[int] = set()
        while os.getppid() == parent:
            with suppress(OSError, ValueError):  # nobody asked; or who asked has gone, or says nothing of ours
                asked = server.accept()[0]
                living = {child for child in living if os.waitpid(child, os.WNOHANG) == (0, 0)}
                if len(living) >= most:
                    _refuse(asked)
                else:
                    living.add(_fork(server, asked, main))


def _refuse(asked: socket.socket) -> None:
    with asked:
        asked.sendall(b"0")


def _fork(server: socket.socket, asked: socket.socket, main: Callable[[list[str]], None]) -> int:
    """One process, for who asks for it; gives its id."""
    with asked:
        asked.settimeout(LOOK_S)
        said = b""
        while len(said) < MOST_BYTES and (more := asked.recv(MOST_BYTES)):
            said += more
        words = json.loads(said)
        if child := os.fork():
            asked.sendall(b"1")
            return child
    try:
        server.close()
        main(words)
    finally:
        os._exit(0)  # never back into the server
