"""`zk0 link start`: SuperLink, superexec and gate, brought back whenever one dies."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from zk0.files import atomic
from zk0.link import settings
from zk0.link.control import QUIET, environment, program
from zk0.link.folder import LINK_FILE
from zk0.link.keys import load_certificate, load_key
from zk0.link.serverapps import shims
from zk0.link.settings import LinkSettings, load_link
from zk0.services.keeper import Keeper, Part

SUPERLINK, SERVERAPPS, SUPEREXEC, GATE = "superlink", "serverapps", "superexec", "gate"


def start(folder: Path, say: Callable[[str], None]) -> None:
    """Keep a link up until SIGTERM or Ctrl-C.

    Args:
        folder: of the link.
        say: tells the person at the terminal.

    Raises:
        BadInputError: there are no keys, they are open to others, or the link runs already.
        StorageError: the folder cannot be written.
    """
    link = load_link(folder)
    for name in (settings.CA, settings.CERTIFICATE):
        load_certificate(folder / name)
    load_key(folder / settings.KEY)
    write_facts(folder, link)
    quiet = environment(folder)
    parts = [
        Part(SUPERLINK, lambda: superlink_command(folder, link), quiet),
        Part(SERVERAPPS, lambda: serverapps_command(folder), quiet),
        Part(SUPEREXEC, lambda: superexec_command(folder, link), {**quiet, **_for_superexec(shims(folder))}),
    ]
    if link.gate:
        parts.append(Part(GATE, lambda: [sys.executable, "-P", "-m", "zk0.link.gate", str(folder)], QUIET))
    Keeper(folder, folder / settings.LOG, parts, say).run(_Renewal(folder))


def superlink_command(folder: Path, link: LinkSettings) -> list[str]:
    """Flower's SuperLink: TLS, on loopback alone, nodes by their registered keys, its state in a file."""
    return [
        program("flower-superlink"),
        *("--host", settings.LOOPBACK, "--port", str(link.inner_port)),
        *("--ssl-ca-certfile", str(folder / settings.CA)),
        *("--ssl-certfile", str(folder / settings.CERTIFICATE), "--ssl-keyfile", str(folder / settings.KEY)),
        *("--isolation", "process", "--database", str(folder / settings.DATABASE)),
        *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
    ]


def superexec_command(folder: Path, link: LinkSettings) -> list[str]:
    """Flower's SuperExec, which starts the courier: apart from the SuperLink, whose death must not end it."""
    return [
        program("flower-superexec"),
        *("--runtime-api-address", link.inner_address, "--root-certificates", str(folder / settings.CA)),
    ]


def serverapps_command(folder: Path) -> list[str]:
    """The process that couriers are forked from."""
    return [sys.executable, "-P", "-m", "zk0.link.serverapps", "serve", str(folder), str(os.getpid())]


def _for_superexec(first: Path) -> dict[str, str]:
    """It starts the courier by name: ours, and Flower's commands beside Python, whatever PATH is."""
    path = os.pathsep.join([str(first), str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {"PATH": path, "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1"}


def write_facts(folder: Path, link: LinkSettings) -> None:
    """Say where the SuperLink listens.

    Raises:
        StorageError: it cannot be written.
    """
    atomic.write_json(folder / LINK_FILE, {"control": link.inner_address, "tls": True})


class _Renewal:
    """Sees when the server certificate has been renewed: the SuperLink takes it at a start alone."""

    def __init__(self, folder: Path) -> None:
        self._certificate = folder / settings.CERTIFICATE
        self._before = self._certificate.stat().st_mtime_ns

    def __call__(self) -> list[str]:
        now = self._certificate.stat().st_mtime_ns if self._certificate.exists() else self._before
        changed, self._before = now != self._before, now
        return [SUPERLINK] if changed else []
