"""`zk0 node check`: everything that a node needs, looked at before it starts; each with a remedy."""

import shutil
import ssl
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from zk0.config import RunConfig, validate_config
from zk0.data.findings import DataReport
from zk0.errors import BadInputError, Zk0Error
from zk0.executors.side_by_side import Watch, examine_all, nobody
from zk0.files import atomic, untrusted
from zk0.memory.gpu import read_gpus
from zk0.node import settings
from zk0.node.key import load_key
from zk0.node.settings import NodeSettings
from zk0.preflight.between import together
from zk0.runs.versions import package_version
from zk0.services import tls
from zk0.services.public_keys import fingerprint

CONTROL, FLEET, OWN = "/v1/control/list-runs", "/v1/fleet/pull-messages", "/v1/fleet/zk0-check"
SOON_DAYS = 30
TOLERATED_S = 120.0
"""Flower takes a node's signed time for five minutes."""
NEEDED_BYTES = 5 * 2**30
"""Free space below which a node may soon not keep a base, its checkpoints and results."""


class Finding(NamedTuple):
    """What one check found."""

    check: str
    verdict: Literal["ok", "warning", "error"]
    seen: str


def check(home: Path, node: NodeSettings) -> list[Finding]:
    """Look at key, link, certificate, clock, versions, GPU and disk; the recordings are `recordings`' part.

    Args:
        home: of the node.
        node: its settings.
    """
    found = [
        *_tried("key", lambda: _key(home)),
        *_tried("CA", lambda: _ca(home)),
        *_tried("link", lambda: _link(home, node)),
        Finding("versions", "ok", ", ".join(f"{name} {package_version(name)}" for name in ("zk0", "flwr", "torch"))),
        *_tried("GPU", lambda: _gpu(node)),
        *_tried("disk", lambda: _disk(home)),
    ]
    return found


def look_at_link(home: Path, node: NodeSettings) -> None:
    """Refuse to start a node towards a link that cannot be trusted: Flower says no word about plain text.

    Raises:
        BadInputError: key or CA are missing or open to others.
        LinkError: the link does not answer, speaks without TLS, or is another one.
    """
    load_key(home)
    tls.look(node.endpoint, home / settings.CA)


def recordings(node: NodeSettings, examine: Callable[[RunConfig], DataReport]) -> DataReport:
    """What check-data finds in the node's recordings.

    Args:
        node: its settings.
        examine: looks at the datasets of a config.

    Raises:
        BadInputError: they cannot be looked at.
    """
    return examine(config_of(node))


def examined(config: RunConfig, watch: Watch = nobody) -> DataReport:
    """Check every frame of a config's datasets, each in a process of its own.

    Raises:
        BadInputError: they cannot be looked at.
    """
    return together(config, examine_all(config, every_frame=True, watch=watch))


def config_of(node: NodeSettings) -> RunConfig:
    """A config with the node's recordings alone, whatever a run will make of them: for checks."""
    client = {"name": node.client, "repo_id": f"node/{node.client}", "root": str(node.recordings)}
    return validate_config(
        {
            "clients": [client],
            "policy": {"type": "act", "device": "cpu"},
            "peft": {"enabled": False},
            "evaluation": {"holdout_episodes": 1},
        }
    )


def _tried(name: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of a check; of one that raises, what it says."""
    try:
        yield from check()
    except Zk0Error as error:
        yield Finding(name, "error", str(error))


def _key(home: Path) -> Iterator[Finding]:
    yield Finding("key", "ok", fingerprint(load_key(home).public_key()))


def _ca(home: Path) -> Iterator[Finding]:
    path = home / settings.CA
    if not atomic.exists(path):
        raise BadInputError(f"{path}: no such file; ask the coordinator for the link's ca.pem, and put it there")
    try:
        with atomic.storage_errors(path, "read"):
            ends = x509.load_pem_x509_certificate(untrusted.read(path)).not_valid_after_utc
    except (ValueError, ssl.SSLError) as error:
        raise BadInputError(f"{path}: is no certificate in PEM; ask the coordinator for the link's ca.pem") from error
    yield _until("CA", ends, "ask the coordinator for a new ca.pem")


def _until(name: str, ends: datetime, remedy: str) -> Finding:
    days = (ends - datetime.now(UTC)).days
    if days < 0:
        return Finding(name, "error", f"ended on {ends:%Y-%m-%d}; {remedy}")
    if days < SOON_DAYS:
        return Finding(name, "warning", f"ends in {days} days, on {ends:%Y-%m-%d}; {remedy}")
    return Finding(name, "ok", f"valid until {ends:%Y-%m-%d}")


def _link(home: Path, node: NodeSettings) -> Iterator[Finding]:
    """What the link shows of itself: TLS, certificate, gate, clock, and whether it knows the key."""
    key = load_key(home).public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    pem = key.public_bytes(serialization.Encoding.PEM, form)
    header = f"flwr-public-key: {b64encode(pem).decode()}\r\n"
    seen = tls.look(node.endpoint, home / settings.CA, (CONTROL, OWN), header)
    yield Finding("link", "ok", f"{node.link} answers, with TLS and the certificate of ca.pem's CA")
    yield _until("certificate", seen.ends, "ask the coordinator to run `zk0 link keys FOLDER --renew`")
    if seen.statuses[CONTROL] == 403:
        yield Finding("gate", "ok", "lets nodes' calls pass alone")
    else:
        open_to = f"the coordinator's own calls pass from outside (answer {seen.statuses[CONTROL]} instead of 403)"
        yield Finding("gate", "error", f"{open_to}: anybody could send work; tell the coordinator, and do not start")
    if seen.statuses[OWN] in (400, 401):
        yield Finding("registration", "error", f"the link says: {seen.details[OWN]}")
    else:
        yield Finding("registration", "ok", "the link knows the key, as far as its gate says")
    if seen.clock is None:
        yield Finding("clock", "warning", "the link does not tell its time; see that this machine's is right")
        return
    off = (datetime.now(UTC) - seen.clock).total_seconds()
    if abs(off) > TOLERATED_S:
        ahead = "ahead of" if off > 0 else "behind"
        yield Finding(
            "clock", "error", f"{abs(off):.0f} s {ahead} the link's; set it, for example by systemd-timesyncd"
        )
    else:
        yield Finding("clock", "ok", f"within {abs(off):.0f} s of the link's")


def _gpu(node: NodeSettings) -> Iterator[Finding]:
    found = read_gpus()
    seen = ", ".join(f"GPU {gpu.index}: {gpu.total_bytes / 2**30:.0f} GiB" for gpu in found) or "none"
    if not found and node.device == "cuda":
        yield Finding("GPU", "error", 'none is seen, and device = "cuda"; check `nvidia-smi`, or use "cpu" or "auto"')
    else:
        yield Finding("GPU", "ok", seen if node.own_device != "cpu" else f"{seen}; not used here")


def _disk(home: Path) -> Iterator[Finding]:
    with atomic.storage_errors(home, "measured"):
        free = shutil.disk_usage(home).free
    verdict: Literal["ok", "warning"] = "ok" if free >= NEEDED_BYTES else "warning"
    more = "" if free >= NEEDED_BYTES else "; free some space for the base, checkpoints and results"
    yield Finding("disk", verdict, f"{free / 2**30:.1f} GiB free in {home}{more}")
