"""Runs with a container for each piece of work: ended by a person, and refused in clear words before they start."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.service import CommandLine
from tests.docker.conftest import IMAGE, Engine, command_line_config

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(1800)]
PATIENCE_S = 600


@pytest.fixture
def docked(zk0: CommandLine, engine: Engine) -> CommandLine:
    """The command line with the tests' engine."""
    return replace(zk0, environment=zk0.environment | {"DOCKER_HOST": engine.host})


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.exhaustive)])
def test_a_run_that_is_ended_ends_its_containers_and_starts_no_other(
    docked: CommandLine, engine: Engine, number: signal.Signals
) -> None:
    """One client works, the other waits for its place, and must not get it."""
    config = command_line_config(docked, training__steps=1000, executor__max_parallel=1)
    name = f"stopped-{number}"
    fits = docked.outputs / name / "rounds" / "0001" / "clients"
    started = docked.start_until(
        (fits / "kitchen" / "progress.json").is_file, "run", config, "--name", name, timeout_s=PATIENCE_S
    )
    os.killpg(started.pid, number)
    output, _ = started.communicate(timeout=60)
    assert started.returncode == 130, output
    assert engine.containers() == []
    assert not (fits / "workshop" / "client.log").exists(), "it was started"


def refused(zk0: CommandLine, name: str, **docker: Any) -> str:
    """What `zk0 run` says of a config that it must refuse without writing anything."""
    settings = {"executor__kind": "docker", **{f"executor__docker__{key}": value for key, value in docker.items()}}
    output = zk0.run("run", zk0.config(**settings), "--name", name, exit_code=2)
    assert not (zk0.outputs / name).exists()
    assert "Traceback" not in output
    return " ".join(output.split())


def test_without_an_engine_it_says_so_beforehand(zk0: CommandLine, tmp_path: Path) -> None:
    nowhere = replace(zk0, environment=zk0.environment | {"DOCKER_HOST": f"unix://{tmp_path}/none.sock"})
    output = refused(nowhere, "no-engine")
    assert f"executor.kind = 'docker': no Docker engine answers at unix://{tmp_path}/none.sock" in output
    assert "executor.kind = 'process'" in output


def test_without_the_image_it_says_how_to_build_it(docked: CommandLine) -> None:
    output = refused(docked, "no-image", image="nobody/nothing:1")
    assert "executor.docker.image = 'nobody/nothing:1': the Docker engine has no such image" in output
    assert "docker build -t zk0:latest ." in output
    data = docked.config(executor__kind="docker", executor__docker__image="nobody/nothing:1")
    assert "nobody/nothing:1" in docked.run("check-data", data, exit_code=2)


@pytest.mark.exhaustive
def test_an_image_without_zk0_is_refused(docked: CommandLine) -> None:
    output = refused(docked, "no-zk0", image=IMAGE)  # nothing is mounted into it
    assert f"executor.docker.image = '{IMAGE}'" in output
    assert "docker build" in output


def test_a_gpu_that_cannot_be_given_is_refused(docked: CommandLine, engine: Engine) -> None:
    client = engine.client
    runtimes = client.info()["Runtimes"]
    client.close()
    if "nvidia" in runtimes:
        pytest.skip("this engine can give GPUs")
    config = command_line_config(docked)
    output = docked.run("run", config, "--name", "no-gpu", "--set", 'executor.docker.gpus=["0"]', exit_code=2)
    assert "executor.docker.gpus = ['0']: the Docker engine cannot give a container GPU 0" in " ".join(output.split())
    assert "NVIDIA Container Toolkit" in " ".join(output.split())
    assert not (docked.outputs / "no-gpu").exists()
