"""A node runs what its owner installed: nothing that comes with a run is installed, loaded or started."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flwr.supercore.constant import TASK_TYPE_TO_COMMAND
from flwr.supernode.runtime import run_clientapp

from zk0.node import messenger
from zk0.node.app import app
from zk0.node.messenger import CLIENTAPP, REFUSED, REPLACED, shims


def test_every_command_that_flower_may_start_is_ours_or_refused() -> None:
    assert set(TASK_TYPE_TO_COMMAND.values()) == {CLIENTAPP, *REFUSED}


def test_what_is_replaced_is_what_flower_installs_and_loads_by() -> None:
    code = Path(run_clientapp.__file__).read_text()
    for name in REPLACED:
        assert code.count(f"{name}(") == 1  # one call of each, and we have it
        assert callable(getattr(run_clientapp, name))
    loader: Any = REPLACED["get_load_client_app_fn"](default_app_ref="", app_path=None, multi_app=True)
    assert loader("a", "b", "c") is app


def test_another_flower_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(messenger.REPLACED, "load_another_way", lambda: None)
    with pytest.raises(SystemExit, match="load_another_way"):
        messenger.main([])


@pytest.mark.parametrize("name", REFUSED)
def test_the_other_commands_end_at_once(tmp_path: Path, name: str) -> None:
    done = subprocess.run([shims(tmp_path) / name], capture_output=True, text=True, check=False)
    assert (done.returncode, "runs none" in done.stderr) == (1, True)


def test_a_messenger_is_forked_from_the_server(tmp_path: Path) -> None:
    """It asks Flower's own command for its help, in a process that has done the imports before."""
    command = shims(tmp_path) / CLIENTAPP
    (tmp_path / "work").mkdir()
    server = subprocess.Popen(
        [sys.executable, "-m", "zk0.node.messenger", "serve", str(tmp_path), str(os.getpid())],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert subprocess.run([command, "--help"], check=False).returncode == 0  # waits until the server is up
        assert "Run a Flower ClientApp" in server.stdout.readline() + "".join(
            server.stdout.readline() for _ in range(12)
        )
    finally:
        server.kill()
        server.communicate()


def test_a_server_whose_worker_died_during_its_imports_ends(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    gone = subprocess.Popen(["true"])
    gone.wait()
    command = [sys.executable, "-m", "zk0.node.messenger", "serve", str(tmp_path), str(gone.pid)]
    assert subprocess.run(command, check=False, timeout=120).returncode == 0
