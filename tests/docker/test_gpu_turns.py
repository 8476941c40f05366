"""Two orchestrators that share the engine and no folder: a GPU has one container all the same."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.docker.conftest import Engine
from zk0.config import RunConfig
from zk0.executors.docker import executor
from zk0.executors.docker.executor import DockerExecutor
from zk0.executors.docker.settings import container_settings
from zk0.runs.store import RunStore
from zk0.work.records import ClientResult, ClientTask

pytestmark = [pytest.mark.docker, pytest.mark.slow]
GPU = "99"
"""The engine is not asked for it: no GPU is needed."""


def start_rival(engine: Engine, settings: dict[str, Any]) -> None:
    """A container that another orchestrator has given the GPU."""
    changes = {"name": "zk0-rival", "labels": settings["labels"] | {"zk0.client": "rival", "zk0.run_dir": "/rival"}}
    client = engine.client
    client.containers.run(
        **settings | changes | {"entrypoint": ["sleep"], "command": ["600"], "device_requests": None}, detach=True
    )
    client.close()


def test_a_container_that_meets_another_on_its_gpu_gives_way(
    docker_host: Engine, docker_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = docker_config(executor__docker__gpus=[GPU])
    task = RunStore.create_or_open(config, "in-turn").task("statistics", 0, "kitchen")
    starts: list[float] = []

    def settings(task: ClientTask, config: RunConfig, gpu: str | None, limit: int) -> dict[str, Any]:
        """Called after the look at what is busy and before the start: there, once, the rival comes in between."""
        made = container_settings(task, config, gpu, limit)
        if not starts:
            start_rival(docker_host, made)
        starts.append(time.monotonic())
        return made | {"device_requests": None}

    monkeypatch.setattr(executor, "container_settings", settings)
    results: list[ClientResult] = []
    thread = threading.Thread(target=lambda: results.append(DockerExecutor(config).run(task)), daemon=True)
    thread.start()
    (rival,) = docker_host.until(lambda: docker_host.containers(client="rival"))
    docker_host.until(lambda: docker_host.containers(client="kitchen"))
    docker_host.until(lambda: not docker_host.containers(client="kitchen"))
    time.sleep(executor.WITHDRAWN_S + 1)  # it does not come again as long as the rival is there
    assert (len(starts), results, docker_host.containers(client="kitchen")) == (1, [], [])
    freed = time.monotonic()
    rival.remove(force=True)
    thread.join(120)
    assert [result.client for result in results] == ["kitchen"]
    assert len(starts) == 2
    assert starts[1] > freed
    assert docker_host.containers() == []
