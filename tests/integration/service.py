"""`zk0 serve` with a Prefect home, port and folder of its own, and what tests ask of it."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.conftest import free_port
from tests.integration.conftest import CommandLine

ROOT = Path(__file__).parents[2]
FLOW = "federated-training"


class ServedCommandLine(CommandLine):
    """The command line against the server of a `zk0 serve` of this test's own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "ZK0_"))}
        environment |= {
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_SERVER_API_PORT": str(port),
            "PYTHONPATH": str(ROOT),
        }
        super().__init__(folder, environment)
        self.api = f"http://127.0.0.1:{port}/api"
        self.process: subprocess.Popen[str] | None = None

    def serve(self, *arguments: str | Path) -> None:
        """Start `zk0 serve` and come back when it watches."""
        log = self.folder / "serve.log"
        with log.open("a") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "zk0.cli", "serve", *map(str, arguments), "--outputs", str(self.outputs)],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                text=True,
                start_new_session=True,
            )
        self.until(lambda: self.nightly() is not None, 240)

    def stop(self) -> int:
        """SIGTERM to `zk0 serve` alone; gives its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(90)
        self.process = None
        return code

    def processes(self) -> list[psutil.Process]:
        """Everything that lives under this Prefect home, the command line of the test's own aside."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("PREFECT_HOME") == self.environment["PREFECT_HOME"]:
                    found.append(process)
        return found

    def flow_process(self) -> psutil.Process | None:
        """The process that executes a flow run of the worker."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if "prefect.engine" in process.cmdline():
                    return process
        return None

    def kill_everything(self) -> None:
        """SIGKILL to all of it at once, as a power cut does."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        if self.process is not None:
            self.process.wait(10)
            self.process = None

    def forget(self) -> None:
        """Delete Prefect's database."""
        shutil.rmtree(self.environment["PREFECT_HOME"])

    def start_nightly(self, **parameters: Any) -> str:
        """What `prefect deployment run` does; gives the flow run's id."""
        made = self.post(f"/deployments/{self.nightly()}/create_flow_run", {"parameters": parameters})
        return str(made["id"])

    def nightly(self) -> str | None:
        with contextlib.suppress(httpx.HTTPError):
            answer = httpx.get(f"{self.api}/deployments/name/{FLOW}/nightly", timeout=10, trust_env=False)
            return str(answer.json()["id"]) if answer.is_success else None
        return None

    def flow_run(self, flow_run_id: str) -> dict[str, Any]:
        answer = httpx.get(f"{self.api}/flow_runs/{flow_run_id}", timeout=30, trust_env=False)
        answer.raise_for_status()
        return dict(answer.json())

    def flow_runs(self) -> list[dict[str, Any]]:
        """The parents that were started, oldest first; the schedule's future ones are left out."""
        found = self.post("/flow_runs/filter", {"flows": {"name": {"any_": [FLOW]}}, "sort": "START_TIME_ASC"})
        return [item for item in found if not item["auto_scheduled"]]

    def post(self, path: str, body: dict[str, Any]) -> Any:
        answer = httpx.post(f"{self.api}{path}", json=body, timeout=30, trust_env=False)
        answer.raise_for_status()
        return answer.json()

    def until(self, condition: Callable[[], object], timeout_s: float) -> float:
        """Wait until the condition holds; gives the seconds that it took."""
        started = time.monotonic()
        while not condition():
            passed = time.monotonic() - started
            assert passed < timeout_s, f"not seen in {timeout_s} s; {self.story()}"
            assert self.process is None or self.process.poll() is None, self.story()
            time.sleep(0.1)
        return time.monotonic() - started

    def story(self) -> str:
        """What was logged, for a failed test."""
        logs = [self.folder / "serve.log", *(self.folder / "prefect").glob("zk0-*.log")]
        return "\n".join(f"{log.name}: {log.read_text()[-3000:]}" for log in logs if log.is_file())

    def close(self) -> None:
        self.kill_everything()


def state_of(flow_run: dict[str, Any]) -> str:
    return str(flow_run["state"]["name"])
