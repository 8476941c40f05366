"""The main job as it is shipped: `zk0 run` without a config."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.executors import round_digests
from benchmarks.service import CommandLine
from tests.docker.conftest import IMAGE, Engine, engine, mounts
from tests.integration.conftest import kill

__all__ = ["engine"]  # a fixture
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
    """The command line with the tests' engine, and the arguments of the default run with the Docker executor."""
    settings = {"executor.kind": "docker", "executor.docker.image": IMAGE, "executor.docker.mem_limit": "4g"}
    settings |= {"executor.docker.mounts": json.dumps(mounts()), "outputs_dir": str(default_run.parent)}
    overrides = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    return replace(zk0, environment=zk0.environment | {"DOCKER_HOST": engine.host}), ["run", *overrides, "--name"]


@pytest.mark.docker
@pytest.mark.exhaustive
def test_containers_give_the_same_bytes_though_their_orchestrator_is_killed(
    default_run: Path, docked: tuple[CommandLine, list[str]], engine: Engine
) -> None:
    """Exhaustive, for each of its 33 containers imports torch anew."""
    zk0, command = docked
    folder = default_run.parent / "docked"

    clients = [folder / "rounds/0001/clients" / client for client in ("kitchen", "workshop")]

    def both_train() -> bool:
        return all((client / "progress.json").is_file() for client in clients)

    started = zk0.start_until(both_train, *command, "docked", timeout_s=600)
    kill(started)
    under_way = [container.name for container in engine.containers(round="1", kind="train")]
    assert len(under_way) == 2, "the containers died with the orchestrator"
    zk0.run(*command, "docked")
    log = (folder / "run.log").read_text()
    assert all(f"adopted container {name}" in log or "is already done" in log for name in under_way)
    for client in clients:
        assert (client / "client.log").read_text().count("train starts in round 1") == 1, "a fit was run twice"
    assert len(round_digests(folder)) == 4
    assert round_digests(folder) == round_digests(default_run)
    assert engine.containers() == []
