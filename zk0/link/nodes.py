"""The coordinator's word on nodes: registers and revokes their keys, and tells what is known of each."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from zk0.errors import BadInputError, LinkError
from zk0.files import atomic, untrusted
from zk0.link import registry, settings
from zk0.link.calls import SEEN
from zk0.link.control import flwr
from zk0.link.keys import load_certificate
from zk0.services.public_keys import fingerprint, read_public

TAKEN = "code: 23"
"""Flower's word for a key that it has already."""


class Node(NamedTuple):
    """What is known of a client's node."""

    client: str
    node_id: int
    fingerprint: str
    status: str
    """Flower's: registered (never seen), online, offline; `unknown` where the link does not run."""
    seen: dict[str, str]
    """When it called last (`at`), from where (`address`), with which Flower (`flwr`); empty before."""
    offer: dict[str, Any]
    """What it said last of itself; empty before a run has asked."""


def register(folder: Path, name: str, public_key: Path) -> registry.Client:
    """Register a node's key and bind the client's name to it.

    Args:
        folder: of the link, which runs.
        name: the client's, as in [[clients]].
        public_key: the file that the owner gave.

    Raises:
        BadInputError: the name or the key is taken or none.
        LinkError: the link does not run.
        StorageError: the list cannot be written.
    """
    key = fingerprint(read_public(public_key))
    registry.check_new(folder, name, key)
    arguments = ("supernode", "register", str(public_key.absolute()))
    try:
        answer = flwr(folder, *arguments)
    except BadInputError as error:
        if TAKEN not in str(error):
            raise
        _forget_unbound(folder)  # of a registration that was ended before it was written down
        answer = flwr(folder, *arguments)
    registry.add(folder, name, int(answer["node-id"]), key)
    return registry.clients(folder)[name]


def revoke(folder: Path, name: str) -> registry.Client:
    """Take back a node's registration: from now on its key is turned away.

    Raises:
        BadInputError: there is no such client.
        LinkError: the link does not run; the gate turns the key away all the same once it does.
        StorageError: the list cannot be written.
    """
    client = registry.remove(folder, name)
    flwr(folder, "supernode", "unregister", str(client.node_id))
    return client


def nodes(folder: Path) -> list[Node]:
    """Every registered client, with what is known of its node.

    Raises:
        StorageError: a file of the link cannot be read.
    """
    try:
        found = flwr(folder, "supernode", "list", coming_s=0)["nodes"]
        listed = {int(item["node-id"]): str(item["status"]) for item in found}
    except LinkError:
        listed = {}
    seen = _json(folder / SEEN)
    return [
        Node(
            name,
            client.node_id,
            client.fingerprint,
            listed.get(client.node_id, "unknown"),
            seen.get(name, {}),
            _json(folder / settings.OFFERS / f"{name}.json"),
        )
        for name, client in registry.clients(folder).items()
    ]


def days_left(certificate: Path) -> int:
    """Whole days for which a certificate is still valid; negative once it has ended.

    Raises:
        BadInputError: there is none.
    """
    return (load_certificate(certificate).not_valid_after_utc - datetime.now(UTC)).days


def _forget_unbound(folder: Path) -> None:
    """Unregister every node of the SuperLink that no client's name is bound to."""
    known = {*registry.bound(folder).values()}
    for item in flwr(folder, "supernode", "list")["nodes"]:
        if int(item["node-id"]) not in known:
            flwr(folder, "supernode", "unregister", str(item["node-id"]))


def _json(path: Path) -> dict[str, Any]:
    """A file of the link's own, or a node's words, as far as they can be read."""
    if not atomic.exists(path):
        return {}
    with atomic.storage_errors(path, "read"):
        found = json.loads(untrusted.read(path))
    return found if isinstance(found, dict) else {}
