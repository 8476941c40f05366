"""A run over SuperNodes that have homes: the ServerApp is the courier of a link that is there for this run alone.

So what a node sees, checks and keeps, and what the coordinator checks, is as over a real link; see
`zk0.executors.superlink`.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flwr.serverapp import Grid
from loguru import logger

from zk0.config import RunConfig
from zk0.config.paths import absolute_path
from zk0.files import atomic
from zk0.flower.nodes import WHO_S, Nodes
from zk0.link import registry, submit
from zk0.link.courier import Courier
from zk0.link.folder import LINK_FILE
from zk0.link.mailbox import Mailbox

FOLDER = ".flower"
"""Of the link, in the folder of the runs."""
NO_NODE = 0
"""In the registry: a client whose node has not shown itself yet."""


def with_link(config: RunConfig) -> RunConfig:
    """The config with this run's link in it; where a link is, is no part of a run."""
    folder = absolute_path(config.outputs_dir) / FOLDER
    return config.model_copy(update={"executor": config.executor.model_copy(update={"link": str(folder)})})


@contextmanager
def carried(config: RunConfig, grid: Grid, nodes: Nodes, flower_run: int) -> Iterator[None]:
    """Carry between every mailbox of the run's link and the nodes.

    Args:
        config: with the link in it.
        grid: Flower's.
        nodes: of the federation.
        flower_run: Flower's id of the run.

    Raises:
        StorageError: the link's folder cannot be written.
    """
    folder = Path(str(config.executor.link))
    clients = [client.name for client in config.clients]
    atomic.write_json(folder / LINK_FILE, {"control": "", "tls": False})
    ended = threading.Event()
    known: dict[str, int] = {}

    def note() -> None:
        there = dict.fromkeys(clients, NO_NODE) | known | nodes.present()
        for name, node in there.items():
            if known.get(name) != node:
                registry.add(folder, name, node, "")
        known.update(there)

    def watch() -> None:
        while not ended.wait(WHO_S):
            note()

    def carry(box: Mailbox) -> str:
        threading.Thread(target=_carry, args=(box,), name="zk0-courier", daemon=True).start()
        return str(flower_run)

    def _carry(box: Mailbox) -> None:
        Courier(grid, box, folder, str(flower_run)).carry()
        logger.debug("the courier of {} is not wanted any more", box.folder)

    note()
    threading.Thread(target=watch, name="zk0-nodes", daemon=True).start()
    submit.here[folder] = carry
    try:
        yield
    finally:
        del submit.here[folder]
        ended.set()
