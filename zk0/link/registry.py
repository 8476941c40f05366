"""Who is registered at a link: client's name, node id and key, bound when the coordinator registers the key."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from zk0.config.part import Name
from zk0.errors import BadInputError, StorageError
from zk0.files import atomic, untrusted
from zk0.link.settings import CLIENTS
from zk0.work.records import Record

REVOKED = "revoked.json"
"""Keys that were registered once: fingerprint -> whose it was and when it was revoked."""


class Client(Record):
    """A registered node."""

    node_id: int
    """Of Flower; it stays the same over restarts."""
    fingerprint: str
    """Of its public key, as `ssh-keygen -l` shows it."""
    registered: str
    """When, in UTC."""


class Known(NamedTuple):
    """What the gate knows of keys."""

    registered: dict[str, str]
    """Fingerprint -> client."""
    revoked: dict[str, str]
    """Fingerprint -> whose it was."""


_CLIENTS = TypeAdapter(dict[Name, Client])


def clients(folder: Path) -> dict[str, Client]:
    """Every registered client.

    Args:
        folder: of the link.

    Raises:
        StorageError: the file cannot be read, or is damaged.
    """
    path = folder / CLIENTS
    if not atomic.exists(path):
        return {}
    with atomic.storage_errors(path, "read"):
        content = untrusted.read(path)
    try:
        return _CLIENTS.validate_json(content)
    except ValidationError as error:
        raise StorageError(f"{path}: is damaged; restore it from a backup, or register the nodes anew") from error


def bound(folder: Path) -> dict[str, int]:
    """Client -> node id of every registered client; raises as `clients`."""
    return {name: client.node_id for name, client in clients(folder).items()}


def known(folder: Path) -> Known:
    """Keys that are registered, and that were; raises as `clients`."""
    registered = {client.fingerprint: name for name, client in clients(folder).items()}
    return Known(registered, {key: name for key, name in _revoked(folder).items() if key not in registered})


def check_new(folder: Path, name: str, fingerprint: str) -> None:
    """Refuse a name or a key that is registered already.

    Raises:
        BadInputError: it is, or the name is none for a client.
        StorageError: as `clients`.
    """
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError as error:
        raise BadInputError(
            f"{name[:80]!r} cannot be a client's name; use small letters, digits, `-`, `_` and `.`, as in [[clients]]"
        ) from error
    taken = clients(folder)
    if name in taken:
        raise BadInputError(
            f"{name!r} is registered already, with the key {taken[name].fingerprint}; if the node has a new key, "
            f"revoke that one first: zk0 link revoke {folder} {name}"
        )
    for other, client in taken.items():
        if client.fingerprint == fingerprint:
            raise BadInputError(
                f"the key {fingerprint} is that of {other!r}; each node makes its own: zk0 node key HOME"
            )


def add(folder: Path, name: str, node_id: int, fingerprint: str) -> None:
    """Bind a client's name to a node.

    Raises:
        StorageError: it cannot be written.
    """
    client = Client(node_id=node_id, fingerprint=fingerprint, registered=_now())
    _write(folder, {**clients(folder), name: client})


def remove(folder: Path, name: str) -> Client:
    """Unbind a client, and keep its key among the revoked ones.

    Raises:
        BadInputError: there is none of that name.
        StorageError: it cannot be written.
    """
    there = clients(folder)
    if name not in there:
        raise BadInputError(f"no client {name[:80]!r} is registered; registered are: {', '.join(there) or 'none'}")
    client = there.pop(name)
    atomic.write_json(folder / REVOKED, {**_revoked(folder), client.fingerprint: name})
    _write(folder, there)
    return client


def _write(folder: Path, there: dict[str, Client]) -> None:
    atomic.write_json(folder / CLIENTS, {name: client.model_dump(mode="json") for name, client in there.items()})


def _revoked(folder: Path) -> dict[str, str]:
    path = folder / REVOKED
    if not atomic.exists(path):
        return {}
    with atomic.storage_errors(path, "read"):
        found: dict[str, str] = json.loads(untrusted.read(path))
    return found


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
