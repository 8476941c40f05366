"""Flower's `flwr-serverapp`, which runs the courier, forked from a process that has its imports done.

The SuperLink's superexec finds it in the link's own `bin/`. It outlives the superexec that asked for it: the courier's
task is the SuperLink's, and another courier would cost a run seconds for nothing.
"""

import os
import sys
from pathlib import Path

from zk0.services import forking

BIN_FOLDER = "bin"
SERVERAPP = "flwr-serverapp"
SOCKET = "serverapps.sock"
PARENT = "--parent-pid"
MOST = 64
"""Couriers at the same time: one for each run under way, and for each check."""


def shims(folder: Path) -> Path:
    """Write the commands that a link's superexec is to find first in PATH; gives their folder.

    Raises:
        StorageError: they cannot be written.
    """
    made = folder / BIN_FOLDER
    forking.write_shim(made / SERVERAPP, folder, SOCKET, ["-m", "zk0.link.serverapps"])
    return made


def main(words: list[str]) -> None:
    """What Flower's command does, but for watching the superexec.

    Args:
        words: its arguments.
    """
    from flwr.superlink.cli import flwr_serverapp

    if PARENT in words:
        at = words.index(PARENT)
        words = words[:at] + words[at + 2 :]
    sys.argv = [SERVERAPP, *words]
    os.setsid()
    flwr_serverapp()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        from zk0.link import courier  # noqa: F401 - so that a fork has it

        forking.serve(Path(sys.argv[2]), SOCKET, int(sys.argv[3]), main, MOST)
    else:
        main(sys.argv[1:])
