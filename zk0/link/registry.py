"""Which node is which client's: bound by the coordinator at registration, never by a node's own claim."""

from pathlib import Path

from zk0.errors import ConfigError
from zk0.files import atomic

CLIENTS_FILE = "clients.json"


def bound(folder: Path) -> dict[str, int]:
    """Client -> Flower's id of its node.

    Raises:
        ConfigError: nobody is registered.
    """
    path = folder / CLIENTS_FILE
    if not path.is_file():
        raise ConfigError(f"executor.link = {str(folder)!r}: no node is registered; see `zk0 link register`")
    return {name: int(entry["node_id"]) for name, entry in atomic.read_json(path).items()}
