"""`flwr run .` by Flower's own commands: in its simulation, killed and given again, the same bytes as `zk0.run`."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import tomli_w

from benchmarks.links import until
from benchmarks.service import ROOT, CommandLine, free_port, small_run

pytestmark = [
    pytest.mark.exhaustive,  # minutes of Ray and Flower; tests/integration/test_api.py has the apps without them
    pytest.mark.timeout(1800),
]
FLWR = Path(sys.executable).with_name("flwr")


class Flower:
    """Flower's commands with a home and ports of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "flwr"
        self.outputs = folder / "outputs"
        self.home.mkdir()
        shutil.copy(ROOT / "deployments/flower/config.toml", self.home / "config.toml")
        self.environment = {
            **CommandLine.apart(folder),
            "PATH": f"{FLWR.parent}{os.pathsep}{os.environ['PATH']}",
            "FLWR_HOME": str(self.home),
            "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(free_port()),
            "FLWR_LOCAL_CONTROL_API_PORT": str(free_port()),
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def start(self) -> None:
        """The SuperLink that `flwr run` would start, which it gives 15 s to come up; an idle machine needs five."""
        port = self.environment["FLWR_LOCAL_SUPERLINK_HTTP_API_PORT"]
        control = f"127.0.0.1:{self.environment['FLWR_LOCAL_CONTROL_API_PORT']}"
        words = ["--insecure", "--simulation", "--host", "127.0.0.1", "--port", port, "--control-api-address", control]
        with (self.folder / "superlink.log").open("wb") as log:
            command = [str(FLWR.with_name("flower-superlink")), *words]
            self.superlink = subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=log, stderr=log)
        until(lambda: self._answers(port))

    @staticmethod
    def _answers(port: str) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/health", timeout=2, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    def run(self, run_config: str) -> dict[str, Any]:
        """`flwr run .`: what it says to programs."""
        command = [str(FLWR), "run", ".", "local-simulation", "--run-config", run_config, "--format", "json"]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False)
        return dict(json.loads(done.stdout[done.stdout.index("{") :]))

    def processes(self, word: str = "") -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("FLWR_HOME") == str(self.home) and word in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def digests(self, name: str) -> list[bytes]:
        return [(self.outputs / name / f"rounds/{number:04d}/global.safetensors").read_bytes() for number in range(3)]


@pytest.fixture
def flower(tmp_path: Path) -> Iterator[Flower]:
    made = Flower(tmp_path)
    made.start()
    yield made
    for process in made.processes():
        with suppress(psutil.Error):
            process.kill()
    made.superlink.wait()


def test_a_simulation_is_killed_and_goes_on_with_the_same_bytes(flower: Flower) -> None:
    config = flower.folder / "small.toml"
    config.write_text(tomli_w.dumps(small_run(flower.outputs)))
    keys = f'config="{config}" training.steps=20 checkpoint.every_steps=5'
    assert "Invalid run configuration" in str(flower.run(f"{keys} training.stepps=3")["error-message"])
    assert flower.run(f'{keys} name="first"')["success"]
    first = flower.outputs / "first/rounds/0001/clients"
    until(lambda: list(first.glob("*/train.lock")), 600)
    (simulation,) = flower.processes("flwr-simulation")
    simulation.kill()
    assert flower.run(keys)["success"]
    until((flower.outputs / "first/final/adapter_model.safetensors").is_file, 900)
    assert [folder.name for folder in flower.outputs.iterdir() if (folder / "run.json").is_file()] == ["first"]
    script = f"import zk0; zk0.run({str(config)!r}, name='plain', overrides=['training.steps=20'])"
    subprocess.run([sys.executable, "-c", script], cwd=flower.folder, env=flower.environment, check=True)
    assert flower.digests("first") == flower.digests("plain")
