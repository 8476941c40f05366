"""zk0 as a user runs it, in a folder of its own: what the benchmarks and the tests start runs with."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import tomli_w

from zk0.files import atomic
from zk0.work.records import ClientResult

ROOT = Path(__file__).parents[1]
FLOW = "federated-training"
TLS = ssl.create_default_context()
"""Made once: httpx would read all certificates of the system for each request, even without TLS."""
CLIENTS = ("kitchen", "workshop")


def small_run(outputs: Path, **changes: Any) -> dict[str, Any]:
    """A run of two shipped clients that takes seconds: two rounds of two steps; `changes` are dotted keys."""
    data: dict[str, Any] = {
        "seed": 7,
        "outputs_dir": str(outputs),
        "federation": {"num_rounds": 2, "min_train_clients": 2},
        "clients": [{"name": name, "repo_id": f"zk0/{name}", "root": f"asset:datasets/{name}"} for name in CLIENTS],
        "policy": {"path": "asset:base", "device": "cpu"},
        "peft": {"r": 4, "lora_alpha": 8},
        "training": {"steps": 2, "batch_size": 4, "lr": 1e-3},
        "data": {"normalization": "base"},
        "evaluation": {"frame_stride": 24, "holdout_episodes": 2},
        "executor": {"max_parallel": 2, "retry_delay_s": 0.1},
        "memory": {"probe": False},  # some seconds; it has tests of its own
    }
    for key, value in changes.items():
        node = data
        *parents, last = key.split("__")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return data


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class CommandLine:
    """`zk0` in a folder of its own, against the session's Prefect server."""

    folder: Path
    environment: dict[str, str] = field(repr=False)

    @staticmethod
    def apart(folder: Path) -> dict[str, str]:
        """An environment in which nothing of the user's is: a Prefect home and a port of its own."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "ZK0_"))}
        return environment | {
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_SERVER_API_PORT": str(free_port()),
            "PYTHONPATH": str(ROOT),
        }

    @property
    def outputs(self) -> Path:
        return self.folder / "outputs"

    def config(self, **changes: Any) -> Path:
        """Write the small run's config with changes to a TOML file."""
        data = small_run(self.outputs, **changes)
        name = hashlib.sha256(repr(sorted(changes.items())).encode()).hexdigest()[:8]
        path = self.folder / f"config-{name}.toml"
        path.write_text(tomli_w.dumps(data))
        return path

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "zk0.cli", *map(str, arguments)],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str | Path, exit_code: int = 0) -> str:
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=1000)
        assert process.returncode == exit_code, output
        return output

    def start_until(
        self, seen: Callable[[], object], *arguments: str | Path, timeout_s: float = 300
    ) -> subprocess.Popen[str]:
        """Start a command and come back as soon as `seen` holds."""
        process = self.start(*arguments)
        deadline = time.monotonic() + timeout_s
        while not seen():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "not seen in time"
            time.sleep(0.02)
        return process

    def digest(self, name: str, server_round: int) -> str:
        """SHA-256 of a round's global tensors."""
        path = self.outputs / name / "rounds" / f"{server_round:04d}" / "global.safetensors"
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def result(self, name: str, server_round: int, client: str, kind: str = "train") -> ClientResult:
        path = self.outputs / name / "rounds" / f"{server_round:04d}" / "clients" / client / f"{kind}.json"
        return ClientResult.model_validate(atomic.read_sealed(path))

    def info(self, name: str) -> dict[str, Any]:
        """The run's run.json."""
        return dict(json.loads((self.outputs / name / "run.json").read_text()))

    def metrics(self, name: str) -> list[dict[str, Any]]:
        lines = (self.outputs / name / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


class ServedCommandLine(CommandLine):
    """The command line against the server of a `zk0 serve` of this test's own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        environment = self.apart(folder)
        super().__init__(folder, environment)
        self.api = f"http://127.0.0.1:{environment['PREFECT_SERVER_API_PORT']}/api"
        self.process: subprocess.Popen[str] | None = None

    def serve(self, *arguments: str | Path) -> None:
        """Start `zk0 serve` and come back when it watches."""
        self.launch(*arguments)
        self.until(lambda: self.nightly() is not None, 600)

    def launch(self, *arguments: str | Path) -> None:
        """Start `zk0 serve` and come back at once."""
        with (self.folder / "serve.log").open("a") as output:
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

    def start_nightly(self, name: str | None = None, **parameters: Any) -> str:
        """What `prefect deployment run` does; gives the flow run's id."""
        body = {"parameters": parameters} | ({"name": name} if name else {})
        return str(self.post(f"/deployments/{self.nightly()}/create_flow_run", body)["id"])

    def cancel(self, flow_run_id: str) -> None:
        """What the pages, and `prefect flow-run cancel`, do."""
        self.post(f"/flow_runs/{flow_run_id}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})

    def suspend(self, flow_run_id: str) -> None:
        """What the pages do; by default for five minutes."""
        until = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
        details = {"pause_timeout": until, "pause_reschedule": True}
        state = {"type": "PAUSED", "name": "Suspended", "state_details": details}
        self.post(f"/flow_runs/{flow_run_id}/set_state", {"state": state})

    def resume(self, flow_run_id: str) -> None:
        """What the pages, and `prefect flow-run resume`, do."""
        self.post(f"/flow_runs/{flow_run_id}/resume", {})

    def retry(self, flow_run_id: str) -> None:
        """What the pages, and `prefect flow-run retry`, do."""
        state = {"type": "SCHEDULED", "name": "AwaitingRetry"}
        self.post(f"/flow_runs/{flow_run_id}/set_state", {"state": state, "force": True})

    def delete(self, flow_run_id: str) -> None:
        """What the pages, and `prefect flow-run delete`, do."""
        httpx.delete(f"{self.api}/flow_runs/{flow_run_id}", timeout=30, trust_env=False, verify=TLS).raise_for_status()

    def change(self, flow_run_id: str, **changes: Any) -> None:
        """Change what Prefect has of a flow run, such as its parameters."""
        url = f"{self.api}/flow_runs/{flow_run_id}"
        httpx.patch(url, json=changes, timeout=30, trust_env=False, verify=TLS).raise_for_status()

    def nightly(self) -> str | None:
        with contextlib.suppress(httpx.HTTPError):
            answer = httpx.get(f"{self.api}/deployments/name/{FLOW}/nightly", timeout=10, trust_env=False, verify=TLS)
            return str(answer.json()["id"]) if answer.is_success else None
        return None

    def flow_run(self, flow_run_id: str) -> dict[str, Any]:
        answer = httpx.get(f"{self.api}/flow_runs/{flow_run_id}", timeout=30, trust_env=False, verify=TLS)
        answer.raise_for_status()
        return dict(answer.json())

    def states(self, flow_run_id: str) -> list[dict[str, Any]]:
        """All that it has had; none where it was deleted."""
        url = f"{self.api}/flow_run_states/"
        answer = httpx.get(url, params={"flow_run_id": flow_run_id}, timeout=30, trust_env=False, verify=TLS)
        return list(answer.raise_for_status().json())

    def flow_runs(self) -> list[dict[str, Any]]:
        """The parents that were started, oldest first; the schedule's future ones are left out."""
        found = self.post("/flow_runs/filter", {"flows": {"name": {"any_": [FLOW]}}, "sort": "START_TIME_ASC"})
        return [item for item in found if not item["auto_scheduled"]]

    def schedules(self) -> list[dict[str, Any]]:
        """Those of the deployment."""
        answer = httpx.get(f"{self.api}/deployments/name/{FLOW}/nightly", timeout=30, trust_env=False, verify=TLS)
        return list(answer.raise_for_status().json()["schedules"])

    def upcoming(self) -> list[str]:
        """Names of the starts that the schedule means."""
        scheduled = {"state": {"type": {"any_": ["SCHEDULED"]}}}
        return [
            item["name"] for item in self.post("/flow_runs/filter", {"flow_runs": scheduled}) if item["auto_scheduled"]
        ]

    def post(self, path: str, body: dict[str, Any]) -> Any:
        for _ in range(30):  # SQLite is locked at times on a busy machine
            answer = httpx.post(f"{self.api}{path}", json=body, timeout=30, trust_env=False, verify=TLS)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(1)
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
