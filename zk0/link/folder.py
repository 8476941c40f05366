"""The link's folder as a run needs it: where its SuperLink listens, and whose node is whose."""

import json
from pathlib import Path

from zk0.config.paths import absolute_path
from zk0.errors import ConfigError, StorageError
from zk0.files import atomic
from zk0.link.registry import bound
from zk0.link.settings import CA
from zk0.work.records import Record

LINK_FILE = "link.json"
CHECKS_FOLDER = "checks"
"""Mailboxes of checks before a run has a folder."""


class Link(Record):
    """A link that is there."""

    folder: Path
    """Its folder."""
    control: str
    """HOST:PORT of the SuperLink, on this machine alone."""
    tls: bool
    """Whether it speaks TLS, by the CA in the folder."""
    ca: str
    """That CA's certificate."""
    nodes: dict[str, int]
    """Client -> Flower's id of its node."""


def open_link(folder: str | None) -> Link:
    """Read a link's folder.

    Args:
        folder: executor.link.

    Raises:
        ConfigError: there is none, or it cannot be used; says what to do.
    """
    if folder is None:
        raise ConfigError(
            "executor.kind = 'superlink' needs executor.link, the link's folder; `zk0 link keys` makes one"
        )
    where = absolute_path(folder)
    try:
        with atomic.storage_errors(where / LINK_FILE, "read"):
            record = json.loads((where / LINK_FILE).read_text(encoding="utf-8"))
            control, tls = str(record["control"]), bool(record["tls"])
    except (StorageError, KeyError, TypeError) as error:
        raise ConfigError(
            f"executor.link = {folder!r}: holds no link ({LINK_FILE} cannot be read); give the folder that "
            "`zk0 link keys` made"
        ) from error
    return Link(folder=where, control=control, tls=tls, nodes=bound(where), ca=str(where / CA))
