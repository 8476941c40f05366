"""The main job as it is shipped: `zk0 run` without a config."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.executors import round_digests
from benchmarks.service import CommandLine
from tests.docker.conftest import IMAGE, Engine, engine, mounts

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
def test_containers_give_the_same_bytes_and_end_with_ctrl_c(
    default_run: Path, docked: tuple[CommandLine, list[str]], engine: Engine
) -> None:
    """Each container imports torch anew, so only the first two rounds; `benchmarks.executors` does all of them."""
    zk0, command = docked
    folder = default_run.parent / "docked"
    committed = folder / "rounds" / "0001" / "manifest.json"
    started = zk0.start_until(committed.is_file, *command, "docked", timeout_s=1000)
    os.killpg(started.pid, signal.SIGINT)
    output, _ = started.communicate(timeout=60)
    assert started.returncode == 130, output
    assert engine.containers() == []
    assert round_digests(folder)[:2] == round_digests(default_run)[:2]


@pytest.mark.docker
@pytest.mark.exhaustive
def test_containers_give_the_same_bytes_to_the_end(
    default_run: Path, docked: tuple[CommandLine, list[str]], engine: Engine
) -> None:
    zk0, command = docked
    zk0.run(*command, "docked-whole")
    assert len(round_digests(default_run)) == 4
    assert round_digests(default_run.parent / "docked-whole") == round_digests(default_run)
    assert engine.containers() == []
