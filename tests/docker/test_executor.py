"""Containers that die, outlive their orchestrator, or lose their engine: found, judged, and never run twice."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.docker.conftest import Engine
from zk0.config import RunConfig
from zk0.errors import ClientError
from zk0.executors.docker.executor import DockerExecutor
from zk0.executors.process import ProcessExecutor
from zk0.federation.guard import run_guarded
from zk0.files.atomic import file_digest
from zk0.memory import client_limits
from zk0.runs.records import RoundState
from zk0.runs.store import RunStore
from zk0.work.attempts import failed_causes
from zk0.work.records import ClientResult, ClientTask

pytestmark = [pytest.mark.docker, pytest.mark.slow]
STEPS = 30
ORCHESTRATOR = """
import sys
from zk0.executors.docker.executor import DockerExecutor
from zk0.runs.store import RunStore
from zk0.work.records import ClientTask
task = ClientTask.model_validate_json(sys.argv[1])
DockerExecutor(RunStore.open(task.run_dir).config).run(task)
"""


@pytest.fixture(scope="module")
def initial(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Filled by the first test: the tensors of round 0, and what an undisturbed fit of `kitchen` gives."""
    return {"folder": tmp_path_factory.mktemp("initial")}


@pytest.fixture
def fit(docker_config: Callable[..., RunConfig], initial: dict[str, Any]) -> ClientTask:
    """A fit of `kitchen` in a run of the test's own, which must leave no container behind."""
    store = RunStore.create_or_open(docker_config(training__steps=STEPS), "disturbed")
    if "tensors" not in initial:
        result = ProcessExecutor(store.config.executor).run(store.task("init", 0, "server"))
        assert result.tensors is not None
        initial["tensors"] = (store.folder / result.tensors.path).read_bytes()
    source = initial["folder"] / "init.safetensors"
    source.write_bytes(initial["tensors"])
    return store.task("train", 1, "kitchen", RoundState(server_round=0, arrays=store.place(0, "global", source)))


def executor(task: ClientTask, **changes: Any) -> DockerExecutor:
    config = RunStore.open(task.run_dir).config
    docker = config.executor.docker.model_copy(update=changes.pop("docker", {}))
    return DockerExecutor(
        config.model_copy(update={"executor": config.executor.model_copy(update={"docker": docker, **changes})})
    )


def orchestrator(task: ClientTask) -> subprocess.Popen[bytes]:
    """Another process that runs the work by the Docker executor."""
    command = [sys.executable, "-c", ORCHESTRATOR, task.model_dump_json()]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)


def in_training(task: ClientTask) -> Callable[[], bool]:
    return (task.folder / "progress.json").is_file


def update(task: ClientTask, result: ClientResult) -> str:
    assert result.tensors is not None
    return file_digest(Path(task.run_dir) / result.tensors.path).sha256


def starts(task: ClientTask) -> int:
    return (task.folder / "client.log").read_text().count("train starts in round 1")


def test_a_fit_gives_the_bytes_of_the_process_executor(
    docker_host: Engine, fit: ClientTask, initial: dict[str, Any]
) -> None:
    result = executor(fit).run(fit)
    initial["update"] = update(fit, result)
    assert docker_host.containers() == []
    assert executor(fit).run(fit) == result, "a finished fit was run again"
    (fit.folder / "train.json").unlink()
    again = ProcessExecutor(RunStore.open(fit.run_dir).config.executor).run(fit)
    assert update(fit, again) == initial["update"]


@pytest.mark.exhaustive  # a whole run is tried with it: tests/acceptance/test_default_run.py
def test_a_killed_orchestrator_leaves_a_container_that_the_next_adopts(
    docker_host: Engine, fit: ClientTask, initial: dict[str, Any]
) -> None:
    first = orchestrator(fit)
    docker_host.until(in_training(fit))
    (container,) = docker_host.containers()
    first.kill()
    first.wait()
    container.reload()
    assert container.status == "running"
    assert executor(fit).run(fit).client == "kitchen"
    assert starts(fit) == 1, "the fit was run twice"
    assert docker_host.containers() == []


def test_a_result_found_in_an_ended_container_is_used(docker_host: Engine, fit: ClientTask) -> None:
    first = orchestrator(fit)
    docker_host.until(in_training(fit))
    first.send_signal(signal.SIGSTOP)  # as good as dead: it neither takes the result nor removes the container
    docker_host.until(lambda: docker_host.containers()[0].status == "exited")
    first.kill()
    first.wait()
    executor(fit).run(fit)
    assert starts(fit) == 1
    assert docker_host.containers() == []


def test_a_stale_container_is_removed(docker_host: Engine, fit: ClientTask) -> None:
    stale = fit.model_copy(update={"proximal_mu": 1.0})
    first = orchestrator(stale)
    (old,) = docker_host.until(docker_host.containers)
    first.kill()
    first.wait()
    with pytest.raises(ClientError, match=r"longer than executor.timeout_s = 3 s") as caught:
        executor(fit, timeout_s=3).run(fit)
    assert caught.value.cause == "timeout"
    assert docker_host.containers() == []
    assert old.labels["zk0.key"] == stale.key


@pytest.mark.exhaustive  # as above
def test_a_killed_container_is_lost_and_the_next_attempt_goes_on(
    docker_host: Engine, fit: ClientTask, initial: dict[str, Any]
) -> None:
    first = orchestrator(fit)
    docker_host.until(in_training(fit))
    first.send_signal(signal.SIGSTOP)
    (container,) = docker_host.containers()
    container.kill()
    first.kill()
    first.wait()
    with pytest.raises(ClientError, match=r"ended by SIGKILL") as caught:
        executor(fit).run(fit)
    assert caught.value.cause == "lost"
    assert caught.value.retriable
    assert docker_host.containers() == []


def test_too_little_memory_is_recognised(docker_host: Engine, fit: ClientTask) -> None:
    with pytest.raises(ClientError, match=r"limit of 0\.29 GiB \(executor\.docker\.mem_limit\)") as caught:
        executor(fit, docker={"mem_limit": "300m"}).run(fit)
    assert caught.value.cause == "out_of_memory"
    assert docker_host.containers() == []


WIDE = 1024
"""Frames at once whose activations are what a container's memory goes to."""


def test_a_kill_by_the_kernel_is_survived_in_half_the_micro_batch(
    docker_host: Engine, docker_config: Callable[..., RunConfig]
) -> None:
    def wide(name: str, **changes: Any) -> tuple[ClientTask, ClientResult]:
        common = {"training__batch_size": WIDE, "training__steps": 1, "memory__soft_limit": 0}
        store = RunStore.create_or_open(docker_config(**common, **changes), name)
        initial = ProcessExecutor(store.config.executor).run(store.task("init", 0, "server"))
        assert initial.tensors is not None
        task = store.task("train", 1, "kitchen", RoundState(server_round=0, arrays=initial.tensors))
        return task, run_guarded(DockerExecutor(store.config).run, task, store.config)

    enough = wide("enough", training__micro_batch_size=WIDE // 2)
    peak = enough[1].peak_rss_bytes  # with what it shares with containers beside it, of which PSS counts a part alone
    task, result = wide("little", executor__docker__mem_limit=f"{(peak >> 20) + 150}m")
    assert failed_causes(task.folder, "train") == ["out_of_memory"]
    assert result.metrics["micro_batch_size"] == WIDE // 2
    known = client_limits.read(Path(task.run_dir), "kitchen", "train")
    assert known is not None
    assert "limit of" in known.notes[0].figures
    assert update(task, result) == update(*enough)
    assert docker_host.containers() == []


@pytest.mark.exhaustive  # as above
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # sockets that the SDK leaves open
def test_an_engine_that_ends_and_comes_back_costs_an_attempt_at_most(
    docker_host: Engine, fit: ClientTask, initial: dict[str, Any], number: signal.Signals
) -> None:
    if docker_host.process is None:
        pytest.skip("the engine is the machine's own: not ours to kill")
    first = orchestrator(fit)
    docker_host.until(in_training(fit))
    docker_host.stop(number)
    time.sleep(1)
    docker_host.start()
    assert first.wait(60) == 1, "it should have ended with the ClientError"
    result = executor(fit).run(fit)
    assert update(fit, result) == initial["update"]
    assert docker_host.containers() == []
