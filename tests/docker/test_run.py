"""Whole runs with a container for each piece of work: the same bytes whatever is killed, and clear words before one."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from docker.models.containers import Container

from benchmarks.service import CommandLine
from tests.docker.conftest import IMAGE, Engine, command_line_config
from tests.integration.conftest import kill

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(1800)]
PATIENCE_S = 600


def fits_of_round_1(engine: Engine) -> bool:
    """Whether both containers run; one that is made and not started has nothing to adopt."""
    return [container.status for container in engine.containers(round="1", kind="train")] == ["running", "running"]


def fits_of_workshop(engine: Engine) -> list[Container]:
    """Its running container of round 2."""
    found = engine.containers(round="2", kind="train", client="workshop")
    return [container for container in found if container.status == "running"]


@pytest.fixture
def docked(zk0: CommandLine, engine: Engine) -> CommandLine:
    """The command line with the tests' engine."""
    return replace(zk0, environment=zk0.environment | {"DOCKER_HOST": engine.host})


@pytest.mark.exhaustive
def test_a_run_that_loses_orchestrator_and_containers_gives_the_bytes_of_processes(
    docked: CommandLine, engine: Engine, reference: str
) -> None:
    config = command_line_config(docked)
    rounds = docked.outputs / "docked" / "rounds"
    command = ("run", config, "--name", "docked")
    started = docked.start_until(lambda: fits_of_round_1(engine), *command, timeout_s=PATIENCE_S)
    kill(started)
    names = {container.name for container in engine.containers(round="1", kind="train")}
    assert names, "the containers died with the orchestrator"
    resumed = docked.start_until(lambda: fits_of_workshop(engine), *command, timeout_s=PATIENCE_S)
    (victim,) = fits_of_workshop(engine)
    victim.kill()
    output, _ = resumed.communicate(timeout=PATIENCE_S)
    assert resumed.returncode == 0, output
    log = (docked.outputs / "docked" / "run.log").read_text()
    assert any(f"adopted container {name}" in log or "is already done" in log for name in names)
    assert "ended by SIGKILL" in log
    assert "kitchen: train starts in round 2" in log, "the client's own lines"
    for client in ("kitchen", "workshop"):
        folder = rounds / "0001" / "clients" / client
        assert (folder / "client.log").read_text().count("train starts in round 1") == 1, "a fit was run twice"
    assert docked.metrics("docked")[2]["train"]["workshop"]["failed_attempts"] == ["lost"]
    assert [docked.digest("docked", number) for number in (0, 1, 2)] == [
        docked.digest("reference", number) for number in (0, 1, 2)
    ]
    assert engine.containers() == []


@pytest.mark.exhaustive
def test_ctrl_c_ends_the_containers_too(docked: CommandLine, engine: Engine) -> None:
    config = command_line_config(docked, training__steps=1000)
    progress = docked.outputs / "stopped" / "rounds" / "0001" / "clients" / "kitchen" / "progress.json"
    started = docked.start_until(progress.is_file, "run", config, "--name", "stopped", timeout_s=PATIENCE_S)
    os.killpg(started.pid, signal.SIGINT)
    output, _ = started.communicate(timeout=60)
    assert started.returncode == 130, output
    assert engine.containers() == []


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
