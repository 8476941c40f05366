"""The courier's process: forked from one that has its imports done, and bound to no superexec."""

import os
import subprocess
import sys
from pathlib import Path

from flwr.superlink.cli.flwr_serverapp import _parse_args_run_flwr_serverapp

from zk0.link.serverapps import PARENT, SERVERAPP, shims


def test_a_courier_is_forked_from_the_server(tmp_path: Path) -> None:
    """It asks Flower's own command for its help, in a process that has done the imports before."""
    command = shims(tmp_path) / SERVERAPP
    server = subprocess.Popen(
        [sys.executable, "-P", "-m", "zk0.link.serverapps", "serve", str(tmp_path), str(os.getpid())],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        done = subprocess.run([command, PARENT, "no-number", "--help"], check=False)  # waits until the server is up
        assert done.returncode == 0
        said = [server.stdout.readline() for _ in range(12)]
        assert "Run a Flower ServerApp" in "".join(said)
    finally:
        server.kill()
        server.communicate()


def test_flower_has_the_argument_that_is_left_out() -> None:
    assert PARENT in _parse_args_run_flwr_serverapp().format_help()
