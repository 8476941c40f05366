"""Submits the courier to the SuperLink by Flower's own command, and ends it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from zk0.errors import PassingError, first_line
from zk0.files import atomic, untrusted
from zk0.link.folder import Link
from zk0.link.mailbox import Mailbox

CLI_FOLDER = "cli"
"""Flower's home of the commands that zk0 gives."""
PATIENCE_S = 90.0
CONNECTION = "link"
here: dict[Path, Callable[[Mailbox], str]] = {}
"""Link's folder -> what carries from a mailbox in this process: where a `flwr run` is the link, see zk0.flower."""
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
_PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "zk0-courier"
version = "{version}"
description = "Carries work between a run of zk0 and its nodes."
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "zk0"

[tool.flwr.app.components]
serverapp = "zk0.link.courier:app"
clientapp = "zk0.node.app:app"

[tool.flwr.app.config]
mailbox = ""
link = ""
"""


def submit(link: Link, box: Mailbox, patience_s: float = PATIENCE_S) -> str:
    """Have the SuperLink run a courier.

    Args:
        link: the link.
        box: what it is to carry from.
        patience_s: what the link may take to answer, in seconds.

    Returns:
        Flower's id of the run.

    Raises:
        PassingError: it is not taken; the SuperLink may be away.
    """
    if (carry := here.get(link.folder)) is not None:
        return carry(box)
    config = f"mailbox={json.dumps(str(box.folder))} link={json.dumps(str(link.folder))}"
    words = ("run", str(_app(link)), CONNECTION, "--run-config", config, "--format", "json")
    said = _flwr(link, *words, patience_s=patience_s)
    return str(said["run-id"])


def end(link: Link, flower_run: str, patience_s: float = PATIENCE_S) -> None:
    """Have a courier end that may not have heard of it.

    Args:
        link: the link.
        flower_run: Flower's id of the run that it is.
        patience_s: what the link may take to answer, in seconds.

    Raises:
        PassingError: the SuperLink is away, or knows of no such run that is under way.
    """
    if link.folder in here:
        return
    _flwr(link, "stop", flower_run, CONNECTION, "--format", "json", patience_s=patience_s)


def flower_command(name: str) -> str:
    """A command of the installed Flower, whatever PATH is.

    Raises:
        PassingError: there is none.
    """
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise PassingError(f"{name}: not found beside {sys.executable}, nor in PATH; install zk0 once more")
    return found


def _flwr(link: Link, *arguments: str, patience_s: float) -> dict[str, str]:
    """What Flower's command says, as it says it to programs."""
    home = _home(link)
    environment = {**os.environ, **QUIET, "FLWR_HOME": str(home)}
    try:
        done = subprocess.run(
            [flower_command("flwr"), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=patience_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise PassingError(f"flwr {arguments[0]}: no answer of {link.control} in {patience_s:g} s") from error
    try:
        said = json.loads(done.stdout[done.stdout.index("{") :])
        if said.get("success"):
            return dict(said)
        why = said.get("error-message")
    except (ValueError, AttributeError) as error:
        why = (done.stderr or done.stdout).strip() or first_line(error)
    raise PassingError(f"flwr {arguments[0]}: {link.control} says {untrusted.words(why)}")


def _home(link: Link) -> Path:
    home = link.folder / CLI_FOLDER
    way = f'root-certificates = "{link.ca}"' if link.tls else "insecure = true"
    text = f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\naddress = "{link.control}"\n{way}\n'
    atomic.write_bytes(home / "config.toml", text.encode())
    return home


def _app(link: Link) -> Path:
    """The folder that is submitted: it names modules of the installed zk0, and has no code of its own."""
    folder = link.folder / CLI_FOLDER / "app"
    atomic.write_bytes(folder / "pyproject.toml", _PROJECT.format(version=version("zk0")).encode())
    return folder
