"""Kill the Prefect server in the middle of a fit and bring it back later: `python -m benchmarks.outage --seconds 180`.

The run must end by itself, with the bytes of a run whose server was never away (exit code 1 if it does not).
"""

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import tomli_w

from benchmarks.damage import CONFIG
from benchmarks.service import free_port

if TYPE_CHECKING:
    from flows.server import Server

PATIENCE_S = 900


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=180, help="for which the server is away")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="zk0-outage-") as scratch:
        folder = Path(scratch)
        os.environ["PREFECT_HOME"] = str(folder / "prefect")
        os.environ["PREFECT_SERVER_API_PORT"] = str(free_port())
        (folder / "config.toml").write_text(tomli_w.dumps({**CONFIG, "outputs_dir": str(folder / "outputs")}))
        server = bring_server()
        try:
            expected = digest(folder, finish(start(folder, "undisturbed", server.url), folder, "undisturbed"))
            found = digest(folder, disturbed(folder, server.url, options.seconds))
        finally:
            kill_server(folder)
    print(f"undisturbed {expected[:16]}, server away for {options.seconds:g} s {found[:16]}")
    sys.exit(expected != found)


def disturbed(folder: Path, url: str, seconds: float) -> str:
    """A run whose server dies while its first client trains."""
    process = start(folder, "disturbed", url)
    wait_for(process, folder, folder / "outputs/disturbed/rounds/0001/clients/kitchen/progress.json")
    kill_server(folder)
    print(f"server killed in the first fit, back in {seconds:g} s", flush=True)
    time.sleep(seconds)
    bring_server()
    back = time.monotonic()
    name = finish(process, folder, "disturbed")
    print(f"server back; the run ended {time.monotonic() - back:.0f} s later", flush=True)
    return name


def start(folder: Path, name: str, url: str) -> subprocess.Popen[bytes]:
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "zk0.cli", "run", str(folder / "config.toml"), "--name", name],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "PREFECT_API_URL": url},  # configured: the run does not start one itself
            start_new_session=True,
        )


def finish(process: subprocess.Popen[bytes], folder: Path, name: str) -> str:
    code = process.wait(PATIENCE_S)
    if code != 0:
        raise SystemExit(f"{name}: exit code {code}: {(folder / f'{name}.log').read_text()}")
    return name


def wait_for(process: subprocess.Popen[bytes], folder: Path, sign: Path) -> None:
    while not sign.is_file():
        if process.poll() is not None:
            raise SystemExit(f"the run ended too early: {(folder / 'disturbed.log').read_text()}")
        time.sleep(0.05)


def bring_server() -> "Server":
    from flows.settings import set_defaults

    set_defaults()
    from flows.server import ensure_server

    server = ensure_server()
    server.wait()
    return server


def kill_server(folder: Path) -> None:
    """SIGKILL to the server; what it had not written is lost."""
    os.kill(int((folder / "prefect" / "server.pid").read_text()), signal.SIGKILL)


def digest(folder: Path, name: str) -> str:
    return hashlib.sha256((folder / "outputs" / name / "rounds/0002/global.safetensors").read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
