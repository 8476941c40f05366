"""`zk0 doctor`: every check of a machine, with its remedy; nothing is changed, and nothing takes long.

What only some runs need is no fault where it is missing.
"""

import ctypes.util
import importlib.util
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

import httpx
import psutil
from packaging.requirements import Requirement

from zk0.config.paths import absolute_path
from zk0.errors import Zk0Error
from zk0.memory.gpu import read_gpus
from zk0.runs.lock import check_locks

GIB = 2**30
NEEDED_BYTES = 10 * GIB
"""Free space below which a base such as SmolVLA, its checkpoints and rounds soon have no room."""
NEEDED_RAM = 4 * GIB
"""Memory below which a worker with a small policy has no room beside the process that advances the run."""
TOLERATED_S = 120.0
"""A clock that is further off fails certificates, and Flower's signed calls."""
PATIENCE_S = 5.0
"""For the hub's answer, in seconds."""
PREFECT_PORT = 4200
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")

Verdict = Literal["ok", "warning", "error"]


class Check(NamedTuple):
    """What one check found."""

    check: str
    verdict: Verdict
    seen: str
    remedy: str = ""


def examine(outputs: Path) -> list[Check]:
    """Look at the whole machine.

    Args:
        outputs: the folder of the runs, there or not.
    """
    checks: tuple[Callable[[], Iterator[Check]], ...] = (
        _python,
        _packages,
        _torch,
        _gpu,
        _simulator,
        _engine,
        lambda: _disk(outputs),
        _memory,
        _hub,
        _proxy,
        _port,
    )
    return [found for check in checks for found in check()]


def _python() -> Iterator[Check]:
    seen = f"{platform.python_version()} at {sys.executable}"
    if (3, 12) <= sys.version_info[:2] < (3, 14):
        yield Check("python", "ok", seen)
    else:
        yield Check("python", "error", seen, "use Python 3.12 or 3.13: `uv venv --python 3.12`")


def _packages() -> Iterator[Check]:
    """Every package that zk0 needs, in a version that it allows."""
    own = version("zk0")
    wrong = []
    for text in requires("zk0") or ():
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            wrong.append(f"{wanted.name} is missing")
            continue
        if not wanted.specifier.contains(found, prereleases=True):
            wrong.append(f"{wanted.name} {found} is not {wanted.specifier}")
    if wrong:
        yield Check(
            "packages",
            "error",
            f"zk0 {own}: {'; '.join(wrong)}",
            "install zk0 anew: `uv sync`, or `uv pip install zk0`",
        )
    else:
        shown = ", ".join(f"{name} {version(name)}" for name in ("lerobot", "flwr", "prefect", "peft"))
        yield Check("packages", "ok", f"zk0 {own}, {shown}")


def _torch() -> Iterator[Check]:
    """For what torch was built, without importing it."""
    built = _torch_build()
    gpus = read_gpus()
    if built is None:
        yield Check("torch", "error", "is not there", "install it: `uv sync`, or `uv pip install torch`")
    elif gpus and built[1] is None:
        remedy = "install a build for CUDA, see https://pytorch.org/get-started/locally"
        yield Check("torch", "warning", f"{built[0]}, built without CUDA, and there are {len(gpus)} GPUs", remedy)
    else:
        yield Check("torch", "ok", f"{built[0]}, built {f'for CUDA {built[1]}' if built[1] else 'without CUDA'}")


def _torch_build() -> tuple[str, str | None] | None:
    """Version and CUDA's version."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    said: dict[str, str | None] = {}
    for line in (Path(found.origin).parent / "version.py").read_text().splitlines():
        name, _, value = line.partition("=")
        said[name.split(":")[0].strip()] = None if value.strip() == "None" else value.strip().strip("'\"")
    return str(said.get("__version__") or version("torch")), said.get("cuda")


def _gpu() -> Iterator[Check]:
    gpus = read_gpus()
    if gpus:
        seen = ", ".join(
            f"GPU {gpu.index}: {gpu.total_bytes / GIB:.0f} GiB, {gpu.used_bytes / GIB:.1f} in use" for gpu in gpus
        )
        yield Check("GPU", "ok", seen)
    elif shutil.which("nvidia-smi"):
        yield Check(
            "GPU", "warning", "nvidia-smi is there and finds none", "see `nvidia-smi`, and that the driver is loaded"
        )
    else:
        yield Check("GPU", "ok", "none; runs train on the CPU")


def _simulator() -> Iterator[Check]:
    if importlib.util.find_spec("so101_nexus") is None:
        yield Check(
            "simulator",
            "ok",
            "not installed; only `zk0 record` and rollouts in it need it: `uv pip install 'zk0[sim]'`",
        )
    elif sys.platform == "linux" and ctypes.util.find_library("EGL") is None:
        remedy = "apt-get install libegl1 libgl1 libgl1-mesa-dri libopengl0"
        yield Check("simulator", "warning", "installed, and EGL, by which it draws, is not", remedy)
    else:
        yield Check("simulator", "ok", "installed")


def _engine() -> Iterator[Check]:
    """Docker's engine and NVIDIA's toolkit in it: for `executor.kind = "docker"` alone."""
    from zk0.executors.docker.engine import ENGINE_ERRORS, connect, reason

    try:
        client = connect()
        try:
            info = client.info()
        finally:
            client.close()
    except ENGINE_ERRORS as error:
        yield Check(
            "engine", "ok", f"no Docker engine answers ({reason(error)}); only executor.kind = 'docker' needs it"
        )
        return
    yield Check("engine", "ok", f"Docker {info.get('ServerVersion')}, storage {info.get('Driver')}")
    toolkit = "nvidia" in (info.get("Runtimes") or {}) or any(
        "nvidia" in str(item) for item in info.get("DiscoveredDevices") or ()
    )
    if read_gpus() and not toolkit:
        remedy = "install NVIDIA's Container Toolkit, then `nvidia-ctk runtime configure --runtime=docker`"
        yield Check("toolkit", "warning", "the engine has no NVIDIA runtime: containers see no GPU", remedy)
    elif toolkit:
        yield Check("toolkit", "ok", "the engine has NVIDIA's runtime")


def _disk(outputs: Path) -> Iterator[Check]:
    from huggingface_hub.constants import HF_HOME

    for name, folder in (("runs", absolute_path(outputs)), ("hub's cache", absolute_path(HF_HOME))):
        there = next(path for path in (folder, *folder.parents) if path.is_dir())
        free = shutil.disk_usage(there).free
        seen = f"{free / GIB:.1f} GiB free for {name} at {folder}"
        if not os.access(there, os.W_OK):
            yield Check("disk", "error", f"{there} cannot be written, for {name}", "choose a folder that you can write")
        elif free < NEEDED_BYTES:
            yield Check("disk", "warning", seen, "free some, or move it: `zk0 clean`, outputs_dir, HF_HOME")
        else:
            yield Check("disk", "ok", seen)
    try:
        check_locks(absolute_path(outputs), "--outputs")
    except Zk0Error as error:
        yield Check("locks", "error", str(error), "choose an outputs_dir on a disk that keeps locks")


def _memory() -> Iterator[Check]:
    now = psutil.virtual_memory()
    seen = f"{now.available / GIB:.1f} of {now.total / GIB:.1f} GiB free, {os.cpu_count()} cores"
    if now.available < NEEDED_RAM:
        yield Check(
            "memory", "warning", seen, "end what uses it; or executor.max_parallel = 1 and a smaller batch_size"
        )
    else:
        yield Check("memory", "ok", seen)


def _hub() -> Iterator[Check]:
    """Whether the hub answers, whether there is a token (never which), and how far its clock is from ours."""
    from huggingface_hub import get_token
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

    token = (
        "a token is set" if get_token() else "no token; private repositories and `zk0 push` need one: `hf auth login`"
    )
    where = _without_secrets(ENDPOINT)
    if HF_HUB_OFFLINE:
        yield Check("hub", "ok", f"HF_HUB_OFFLINE is set: nothing is fetched; {token}")
        return
    try:
        answer = httpx.head(f"{ENDPOINT}/api/models", timeout=PATIENCE_S, follow_redirects=True)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        remedy = "see network and proxy; the shipped run needs neither, and HF_HUB_OFFLINE=1 asks for nothing"
        yield Check("hub", "warning", f"{where} does not answer ({type(error).__name__}); {token}", remedy)
        return
    yield Check("hub", "ok", f"{where} answers; {token}")
    if (told := answer.headers.get("date")) is not None:
        yield _clock(told)


def _clock(told: str) -> Check:
    try:
        theirs = parsedate_to_datetime(told)
    except ValueError:
        return Check("clock", "ok", "nobody tells the time")
    off = (datetime.now(UTC) - theirs.astimezone(UTC)).total_seconds()
    if abs(off) > TOLERATED_S:
        seen = f"{abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} the hub's"
        return Check("clock", "error", seen, "set it, for example by systemd-timesyncd")
    return Check("clock", "ok", f"within {abs(off):.0f} s of the hub's")


def _proxy() -> Iterator[Check]:
    given = {name: value for name in PROXIES if (value := os.environ.get(name) or os.environ.get(name.lower()))}
    seen = ", ".join(f"{name}={_without_secrets(value)}" for name, value in given.items())
    yield Check("proxy", "ok", seen or "none")


def _without_secrets(url: str) -> str:
    """An address without what may be a password in it."""
    parts = urlsplit(url)
    return url.replace(parts.netloc, f"***@{parts.netloc.rpartition('@')[2]}") if "@" in parts.netloc else url


def _port() -> Iterator[Check]:
    """Who listens where `zk0 serve` would."""
    with socket.socket() as probe:
        probe.settimeout(1)
        taken = probe.connect_ex(("127.0.0.1", PREFECT_PORT)) == 0
    if not taken:
        yield Check("port", "ok", f"{PREFECT_PORT} is free for Prefect's server")
        return
    try:
        health = httpx.get(f"http://127.0.0.1:{PREFECT_PORT}/api/health", timeout=PATIENCE_S, trust_env=False)
        prefect = health.is_success
    except httpx.HTTPError:
        prefect = False
    if prefect:
        yield Check("port", "ok", f"a Prefect server answers at {PREFECT_PORT}")
    else:
        yield Check("port", "warning", f"something else listens at {PREFECT_PORT}", "`zk0 serve --port PORT`")
