"""Two machines of one owner: Postgres, and runs on a shared folder; one is killed in a fit, the other goes on."""

import json
import os
import pwd
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.service import ROOT, TLS, CommandLine, ServedCommandLine, free_port, state_of

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive, pytest.mark.root, pytest.mark.timeout(1800)]  # makes namespaces

NOBODY = pwd.getpwnam("nobody")
MACHINES = ("one", "two")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Postgres of this test's own, as Prefect names it."""
    if os.geteuid() or shutil.which("initdb") is None:
        pytest.skip("needs Postgres, and root to start it as somebody else")
    folder = Path("/tmp") / f"zk0-postgres-{os.getpid()}"
    folder.mkdir()
    os.chown(folder, NOBODY.pw_uid, NOBODY.pw_gid)
    port = free_port()

    def postgres(*words: str) -> None:
        subprocess.run(words, check=True, user="nobody", group=NOBODY.pw_gid, cwd=folder, stdout=subprocess.DEVNULL)

    try:
        postgres("initdb", "-D", f"{folder}/data", "-U", "prefect", "--auth", "trust")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
        postgres("pg_ctl", "-D", f"{folder}/data", "-w", "-l", f"{folder}/log", "-o", options, "start")
        postgres("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "prefect", "prefect")
        yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/prefect"
        postgres("pg_ctl", "-D", f"{folder}/data", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Machines(ServedCommandLine):
    """Two `zk0 serve` in process and host name namespaces of their own, against one Prefect server."""

    def __init__(self, folder: Path, database: str) -> None:
        super().__init__(folder)
        self.machines: dict[str, subprocess.Popen[bytes]] = {}
        service = {"PREFECT_API_DATABASE_CONNECTION_URL": database, "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
        port = self.environment["PREFECT_SERVER_API_PORT"]
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
        with (folder / "server.log").open("wb") as out:
            self.server = subprocess.Popen(command, env=self.environment | service, stdout=out, stderr=out, cwd=folder)

    def answers(self) -> bool:
        """Whether the server does."""
        try:
            return httpx.get(f"{self.api}/health", timeout=10, trust_env=False, verify=TLS).is_success
        except httpx.HTTPError:
            return False

    def begin(self, name: str, config: Path) -> None:
        """Start a machine's service."""
        home = {"PREFECT_HOME": str(self.folder / name), "PREFECT_API_URL": self.api}
        serve = [sys.executable, "-m", "zk0.cli", "serve", str(config), "--outputs", str(self.outputs)]
        words = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        shell = ["sh", "-c", f'hostname {name} && exec "$@"', "sh"]
        with (self.folder / f"{name}.log").open("ab") as out:
            self.machines[name] = subprocess.Popen(
                [*words, *shell, *serve], env=self.environment | home, stdout=out, stderr=out, cwd=self.folder
            )

    def power_cut(self, name: str) -> None:
        """All that a machine does ends at once."""
        process = self.machines.pop(name)
        process.kill()
        process.wait()

    def workers(self) -> list[str]:
        """Those that are online."""
        found = self.post("/work_pools/zk0/workers/filter", {})
        return sorted(item["name"] for item in found if item["status"] == "ONLINE")

    def close(self) -> None:
        for name in [*self.machines]:
            self.power_cut(name)
        self.server.kill()
        self.server.wait()


@pytest.fixture
def machines(tmp_path: Path, database: str) -> Iterator[Machines]:
    found = Machines(tmp_path, database)
    try:
        yield found
    finally:
        found.close()


def test_a_machine_that_dies_in_a_fit_is_taken_over_by_the_other(machines: Machines, tmp_path: Path) -> None:
    config = machines.config(training__steps=60, checkpoint__every_steps=5)
    machines.until(machines.answers, 300)
    for name in MACHINES:
        machines.begin(name, config)
        machines.until(lambda: machines.nightly() is not None, 300)
    machines.until(lambda: machines.workers() == [f"zk0-{name}" for name in MACHINES], 300)
    flow_run = machines.start_nightly(config=str(config), overrides=[], name="shared", continue_from=None)
    fit = machines.outputs / "shared/rounds/0001/clients/kitchen"
    machines.until((fit / "checkpoint/manifest.json").is_file, 400)
    first = json.loads((machines.outputs / "shared/run.lock").read_text())["host"]
    assert first in MACHINES
    time.sleep(8)  # both have looked at it several times meanwhile, and neither may touch it
    assert state_of(machines.flow_run(flow_run)) == "Running"
    assert json.loads((machines.outputs / "shared/run.lock").read_text())["host"] == first
    machines.power_cut(first)
    machines.until(lambda: state_of(machines.flow_run(flow_run)) == "Completed", 600)
    assert json.loads((machines.outputs / "shared/run.lock").read_text())["host"] == next(
        name for name in MACHINES if name != first
    )
    assert (fit / "client.log").read_text().count("The fit goes on after step") >= 1
    alone = CommandLine(tmp_path, CommandLine.apart(tmp_path))
    script = "import sys, zk0; zk0.run(sys.argv[1], name='alone', overrides=sys.argv[2:])"
    command = [sys.executable, "-P", "-c", script, str(config), f'outputs_dir="{tmp_path / "outputs"}"']
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert alone.digest("shared", 2) == alone.digest("alone", 2)
