"""What is tried before a run in a container that sees what the run's would."""

from collections.abc import Callable

import pytest

from tests.docker.conftest import Engine
from zk0.config import RunConfig
from zk0.errors import ConfigError
from zk0.executors.docker.check import check_container, judge_versions, output_of
from zk0.executors.docker.settings import bind_mount, common_settings
from zk0.executors.docker.visible import Bind

pytestmark = pytest.mark.docker


def test_every_gpu_is_asked_for(docker_host: Engine, docker_config: Callable[..., RunConfig]) -> None:
    """An engine gives all or none: with one that is not there the container does not start."""
    client = docker_host.client
    runtimes = client.info()["Runtimes"]
    client.close()
    if "nvidia" in runtimes:
        pytest.skip("this engine can give GPUs")
    check_container(docker_config())
    with pytest.raises(ConfigError, match=r"cannot give a container GPU 0, 7 .*NVIDIA Container Toolkit"):
        check_container(docker_config(executor__docker__gpus=["0", "7"]))


def test_a_container_says_why_torch_cannot_use_its_gpu(
    docker_host: Engine, docker_config: Callable[..., RunConfig]
) -> None:
    """Seen by one without a GPU, which is as one whose driver does not serve."""
    config = docker_config()
    settings = common_settings(config, None, 2**31) | {"command": ["versions", "cuda"]}
    settings["mounts"] = [bind_mount(Bind(folder, folder)) for folder in config.executor.docker.mounts]
    client = docker_host.client
    printed = output_of(client, settings)
    client.close()
    judge_versions(config, [], printed)
    with pytest.raises(ConfigError, match=r"cannot use CUDA \(.+\); update the machine's NVIDIA driver"):
        judge_versions(config, ["0"], printed)
