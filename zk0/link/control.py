"""Flower's own command line, against the SuperLink of a link folder: the public way to register nodes and list them."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from zk0.errors import BadInputError, LinkError
from zk0.files import atomic, untrusted
from zk0.link import settings
from zk0.link.settings import load_link
from zk0.services.keeper import running

TIMEOUT_S = 120.0
COMING_S = 60.0
"""So long a command waits for the SuperLink of a link that is started: after a renewal or a death it begins anew."""
LOOK_S = 0.5
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
"""Nothing of Flower calls home."""


def flower_home(folder: Path) -> Path:
    """Flower's home for commands of this link, with a connection to it; made where it is missing.

    Raises:
        ConfigError: link.toml cannot be used.
        StorageError: it cannot be written.
    """
    home, address = folder / settings.FLOWER_HOME, load_link(folder).inner_address
    text = (
        f'[superlink]\ndefault = "{settings.CONNECTION}"\n\n[superlink.{settings.CONNECTION}]\n'
        f'address = "{address}"\nroot-certificates = {json.dumps(str(folder / settings.CA))}\n'
    )
    config = home / "config.toml"
    if not atomic.exists(config) or untrusted.read(config) != text.encode():
        atomic.make_folder(home)
        atomic.write_bytes(config, text.encode())
    return home


def environment(folder: Path) -> dict[str, str]:
    """What Flower's commands for this link need in their environment, beside ours."""
    return {**QUIET, "FLWR_HOME": str(flower_home(folder))}


def program(name: str) -> str:
    """One of Flower's programs, of the environment that we run in."""
    return str(Path(sys.executable).parent / name)


def flwr(folder: Path, *arguments: str, coming_s: float = COMING_S) -> dict[str, Any]:
    """Run `flwr ARGUMENTS zk0 --format json`; gives what it answers.

    Args:
        folder: of the link.
        arguments: of Flower's command.
        coming_s: how long to wait for the SuperLink of a link that is started, in seconds.

    Raises:
        BadInputError: it refuses, in its own words.
        LinkError: the SuperLink does not answer.
    """
    until = time.monotonic() + coming_s
    while True:
        try:
            return _asked(folder, *arguments)
        except LinkError:
            if running(folder) is None or time.monotonic() > until:
                raise
        time.sleep(LOOK_S)


def _asked(folder: Path, *arguments: str) -> dict[str, Any]:
    command = [program("flwr"), *arguments, settings.CONNECTION, "--format", "json"]
    full = {**os.environ, **environment(folder)}
    try:
        done = subprocess.run(
            command, env=full, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise LinkError(_down(folder, "no answer")) from error
    answer = _json(done.stdout)
    if answer is not None and answer.get("success") is True:
        return answer
    said = untrusted.words((answer or {}).get("error-message") or done.stderr or done.stdout)
    if "unavailable" in said.lower() or "connect" in said.lower():
        raise LinkError(_down(folder, said))
    raise BadInputError(f"{folder}: the SuperLink refuses `flwr {' '.join(arguments)}`: {said}")


def _down(folder: Path, said: str) -> str:
    if running(folder) is not None:
        return f"{folder}: the link is started, but its SuperLink does not answer ({said[:200]}); see {settings.LOG}"
    return f"{folder}: the link does not run ({said[:200]}); start it first: zk0 link start {folder}"


def _json(text: str) -> dict[str, Any] | None:
    """The object in a command's output, before which it may have said something."""
    try:
        found = json.loads(text[text.index("{") :])
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
