"""The main job as it is shipped: `zk0 run` without a config, in processes and in containers.

In a folder that comes first: it takes longest, and other files fill up the time beside it.
"""

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.executors import round_digests
from benchmarks.service import CommandLine
from tests.docker.conftest import IMAGE, Engine, engine, mounts
from tests.integration.conftest import kill, zk0

__all__ = ["engine", "zk0"]  # fixtures
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

LEAST_FALL = 0.30
"""By how much the mean held-out action error must fall from the base to the last round."""


@pytest.fixture(scope="module")
def default_run(zk0: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("default")
    zk0.run("run", "--name", "default", "--set", f"outputs_dir={outputs}")
    return outputs / "default"


def test_the_action_error_falls(default_run: Path) -> None:
    rounds = [json.loads(line) for line in (default_run / "metrics.jsonl").read_text().splitlines()]
    assert [line["server_round"] for line in rounds] == [0, 1, 2, 3]
    base, last = rounds[0]["summary"], rounds[-1]["summary"]
    for key in ("action_error_deg", "unseen_action_error_deg"):
        assert last[key] < (1 - LEAST_FALL) * base[key], key


def test_every_client_gains(default_run: Path) -> None:
    rounds = [json.loads(line) for line in (default_run / "metrics.jsonl").read_text().splitlines()]
    base, last = rounds[0]["evaluate"], rounds[-1]["evaluate"]
    assert len(last) == 5
    assert {name for name in last if last[name]["action_error_deg"] >= base[name]["action_error_deg"]} == set()


@pytest.fixture
def docked(default_run: Path, zk0: CommandLine, engine: Engine) -> tuple[CommandLine, list[str]]:
    """The command line with the tests' engine, and the default run in containers, beside the one in processes."""
    settings = {"executor.kind": "docker", "executor.docker.image": IMAGE, "executor.docker.mem_limit": "4g"}
    settings |= {"executor.docker.mounts": json.dumps(mounts()), "outputs_dir": str(default_run.parent)}
    overrides = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    docked = replace(zk0, environment=zk0.environment | {"DOCKER_HOST": engine.host})
    return docked, ["run", "--name", "docked", *overrides]


@pytest.mark.docker
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # sockets that the SDK leaves open
def test_containers_give_the_same_bytes_whatever_is_killed(
    default_run: Path, docked: tuple[CommandLine, list[str]], engine: Engine
) -> None:
    """The orchestrator in round 1, a container in round 2, the engine in round 3; each while two clients train."""
    if engine.process is None:
        pytest.skip("the engine is the machine's own: not ours to kill")
    command_line, command = docked
    folder = default_run.parent / "docked"

    def two_train(server_round: int) -> bool:
        """Whether two clients are at their steps; told by files, for to ask the engine so often takes a core."""
        clients = (folder / f"rounds/{server_round:04d}/clients").glob("*")
        at_it = [item for item in clients if (item / "progress.json").is_file() and not (item / "train.json").exists()]
        return len(at_it) == 2

    first = command_line.start_until(lambda: two_train(1), *command, timeout_s=600)
    kill(first)
    orphans = engine.containers(round="1", kind="train")
    assert len(orphans) == 2, "the containers died with the orchestrator"
    second = command_line.start_until(lambda: two_train(2), *command, timeout_s=600)
    victim = engine.containers(round="2", kind="train")[0]
    victim.kill()
    engine.until(lambda: two_train(3), 600)
    engine.stop(signal.SIGKILL)
    engine.start()
    output, _ = second.communicate(timeout=600)
    assert second.returncode == 0, output

    log = (folder / "run.log").read_text()
    assert all(f"adopted container {orphan.name}" in log or "is already done" in log for orphan in orphans)
    for orphan in orphans:
        client_log = folder / "rounds/0001/clients" / orphan.labels["zk0.client"] / "client.log"
        assert client_log.read_text().count("train starts in round 1") == 1, "a fit was run twice"
    assert "kitchen: train starts in round 2" in log, "the client's own lines"
    assert "ended by SIGKILL" in log
    rounds = [json.loads(line)["train"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rounds[2][victim.labels["zk0.client"]]["failed_attempts"] == ["lost"]
    assert len(round_digests(folder)) == 4
    assert round_digests(folder) == round_digests(default_run)
    assert engine.containers() == []
