"""`zk0 node start`: the worker and Flower's SuperNode, brought back when one dies, and ended with all they started."""

import os
import re
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from zk0.config import validate_config
from zk0.errors import Zk0Error
from zk0.executors.choice import PROCESS, stop_work
from zk0.files import atomic
from zk0.node import settings
from zk0.node.check import config_of, look_at_link
from zk0.node.messenger import shims
from zk0.node.settings import NodeSettings, load
from zk0.services.keeper import Keeper, Part
from zk0.work.executor import STOPPED

WORKER, SUPERNODE = "worker", "supernode"
HOME_VARIABLE, PATH_VARIABLE = "ZK0_NODE_HOME", "ZK0_NODE_PATH"
"""Environment variables: the node's home, and the PATH that this command was given."""
AWAY_S = 65.0
"""From a SuperNode's death to its next start: for a minute the SuperLink thinks that the old one is still there."""
LOOK_S, SILENT_S = 1.0, 120.0
"""Pause between two looks at whether it speaks to the link, and how long it may be silent."""
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
"""Nothing of Flower calls home."""
SUPEREXEC = "flower-superexec"
LOOPBACK = "127.0.0.1"

KNOWN = {
    "not registered": "the coordinator has not registered this key: give him key.pub (`zk0 node key HOME --show`)",
    "was revoked": "the coordinator has revoked this key: ask him why; a new one is made in a new home",
    "code: 2004": "the link thinks that this node is there: it was until a minute ago, or the key is used twice",
    "SSL/TLS handshake error": "TLS fails: see `zk0 node check HOME`",
    "terminated gracefully": "the link does not take this key any more, or a person ended it",
}
"""What Flower says last -> what it means for the owner."""


def start(home: Path, say: Callable[[str], None]) -> None:
    """Keep a node up until SIGTERM or Ctrl-C.

    Args:
        home: of the node.
        say: tells the person at the terminal.

    Raises:
        BadInputError: node.toml, the key or ca.pem cannot be used, or the node runs already.
        StorageError: the home cannot be written.
    """
    node = load(home)
    allowed = _programs(home)
    ours = {**QUIET, HOME_VARIABLE: str(home)}
    confined = {
        **ours,
        "PATH": str(allowed),
        PATH_VARIABLE: os.environ.get("PATH", os.defpath),
        "FLWR_HOME": str(home / settings.FLOWER_HOME),
    }
    parts = [
        Part(WORKER, lambda: [sys.executable, "-P", "-m", "zk0.node.worker", str(home)], ours, spares_children=True),
        Part(SUPERNODE, lambda: _supernode(home, node), confined, shortest_pause_s=AWAY_S, explain=explain),
    ]
    keeper = Keeper(home, home / settings.LOG, parts, say)
    silence = Silence(lambda: keeper.process_of(SUPERNODE), node.endpoint[1])
    keeper.run(silence, lambda: _end_containers(home, node, keeper.tell))


def _end_containers(home: Path, node: NodeSettings, tell: Callable[[str], None]) -> None:
    """End what is at work in containers: they are the engine's children, not ours."""
    if node.executor == PROCESS:
        return
    own = config_of(node).model_dump(mode="json")
    own["executor"] |= {"kind": node.executor, "docker": node.docker.model_dump(mode="json")}
    config = validate_config(own)
    for run_dir in (home / settings.WORK / "runs").glob("*"):
        try:
            stop_work(str(run_dir), config)
        except Zk0Error as error:
            tell(f"what is at work in {run_dir} may go on: {error}")
        finally:
            STOPPED.clear()


class Silence:
    """Sees a SuperNode that speaks to its link no more: after an error that it did not foresee, Flower's lives on so.

    It asks for work every 3 s, and where the link is away, tries at least every 20 s.
    """

    def __init__(self, process: Callable[[], int | None], port: int) -> None:
        """Begin to look.

        Args:
            process: gives the SuperNode's process id, if it runs.
            port: the link's.
        """
        self._process, self._port = process, port
        self._pid: int | None = None
        self._heard = self._looked = 0.0

    def __call__(self) -> list[str]:
        """Name the SuperNode where it has been silent for too long."""
        now, pid = time.monotonic(), self._process()
        if pid != self._pid:
            self._pid, self._heard = pid, now
        if pid is None or now - self._looked < LOOK_S:
            return []
        self._looked = now
        if _speaks(pid, self._port):
            self._heard = now
        return [SUPERNODE] if now - self._heard > SILENT_S else []


def _speaks(pid: int, port: int) -> bool:
    """Whether a process has a connection to a port, or tries to get one; True where that cannot be told."""
    try:
        return any(item.raddr and item.raddr.port == port for item in psutil.Process(pid).net_connections("tcp"))
    except psutil.Error:
        return True


def explain(said: str) -> str | None:
    """What the end of the log means, by Flower's own words; None where they are not known."""
    last = said[said.rfind("supernode started") :]
    found = next((words for key, words in KNOWN.items() if key in last), None)
    shown = re.search(r"zk0's gate: (.{1,300})", last)
    return f"{found or 'the gate turns it away'} ({shown[1].strip()})" if shown else found


def _supernode(home: Path, node: NodeSettings) -> list[str]:
    """Flower's SuperNode, once the link has been looked at.

    Raises:
        Zk0Error: the link cannot be trusted, or reached.
    """
    look_at_link(home, node)
    return [
        str(Path(sys.executable).parent / "flower-supernode"),
        *("--superlink", node.link, "--root-certificates", str(home / settings.CA)),
        *("--auth-supernode-private-key", str(home / settings.KEY)),
        *("--host", LOOPBACK, "--port", str(_free_port())),
    ]


def _programs(home: Path) -> Path:
    """The only programs that a link can make the SuperNode start: zk0's messenger; all others of Flower's end at once.

    Raises:
        StorageError: they cannot be written.
    """
    folder = shims(home)
    link = folder / SUPEREXEC
    with atomic.storage_errors(link, "written"):
        link.unlink(missing_ok=True)
        link.symlink_to(Path(sys.executable).parent / SUPEREXEC)
    return folder


def _free_port() -> int:
    """A port that is free now, for what Flower's parts on this machine say to one another."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        return int(listener.getsockname()[1])
