"""A link's folder: where its files lie, and link.toml, which says where it listens."""

from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from zk0.config.part import Part
from zk0.services.toml import entry, read_part

CA, CA_KEY = "ca.pem", "ca.key"
CERTIFICATE, KEY = "server.pem", "server.key"
DATABASE, CLIENTS, SETTINGS, LOG = "link.db", "clients.json", "link.toml", "link.log"
OFFERS = "offers"
"""Folder with what each client's node said last of itself, one JSON file each."""
FLOWER_HOME = "flwr-home"
CONNECTION = "zk0"
"""The SuperLink's name in Flower's own config file in FLOWER_HOME."""
LOOPBACK = "127.0.0.1"


class LinkSettings(Part):
    """link.toml: where the gate listens for nodes, and where the SuperLink listens on loopback alone."""

    FILE: ClassVar[str] = SETTINGS
    host: str = Field(default="0.0.0.0", min_length=1)  # noqa: S104 - nodes come from outside; only the fleet's calls pass
    """Address that the gate listens on."""
    port: int = Field(default=8124, ge=1, le=65535)
    """Its port; nodes name it in `link.address`."""
    inner_port: int = Field(default=8123, ge=1, le=65535)
    """The SuperLink's port on 127.0.0.1; never to be reached from other machines: who reaches it can start runs."""
    gate: bool = True
    """Start zk0's own gate; false where Caddy, nginx or HAProxy stands before the SuperLink, see federation.md."""

    @property
    def inner_address(self) -> str:
        """The SuperLink's host:port."""
        return f"{LOOPBACK}:{self.inner_port}"


def load_link(folder: Path) -> LinkSettings:
    """Read a link folder's link.toml.

    Raises:
        ConfigError: there is none, or a key in it is wrong.
    """
    return read_part(LinkSettings, folder / SETTINGS, "`zk0 link keys FOLDER --host NAME` makes one")


def link_toml(values: dict[str, Any]) -> str:
    """The text of a new link.toml; what is not given is there as a comment."""
    return "\n".join(line for name in LinkSettings.model_fields for line in entry(LinkSettings, name, values.get(name)))
