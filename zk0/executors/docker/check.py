"""Before a run: is there an engine, an image of this zk0, a GPU where one is asked for, and can the data be read?"""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, ImageNotFound
from requests.exceptions import RequestException

from zk0.config import RunConfig
from zk0.errors import ConfigError
from zk0.executors.docker import engine, visible
from zk0.executors.docker.inside import PLUGIN
from zk0.executors.docker.mem_limit import mem_limit
from zk0.executors.docker.settings import bind_mount, common_settings, gpu_requests, user, wanted_gpus
from zk0.runs.versions import PACKAGES, package_version

CHECK_TIMEOUT_S = 120
CPU = "policy.device = 'cpu' and gpus = []"
BUILD = "`docker build -t zk0:latest .` in a checkout of zk0"


def check_engine(config: RunConfig) -> None:
    """Refuse a config for which no container could be made: engine, image, rights to the data.

    Raises:
        ConfigError: names the key, its value and the remedy.
    """
    image = config.executor.docker.image
    with _engine() as client:
        try:
            client.images.get(image)
        except ImageNotFound as error:
            raise ConfigError(
                f"executor.docker.image = {image!r}: the Docker engine has no such image; build it by {BUILD}, or name "
                "one that `docker images` lists"
            ) from error
    _check_folders(config)


def check_container(config: RunConfig) -> None:
    """Start one container with the executor's own settings: zk0 is in it, of this version, and CUDA sees the GPUs.

    It gets all GPUs that the run may use: one that is missing shows now, not in the first fit that has its turn on it.

    Args:
        config: with policy.device settled.

    Raises:
        ConfigError: as `check_engine`.
    """
    gpus = wanted_gpus(config)
    if config.policy.device == "cuda" and not gpus:
        raise ConfigError("executor.docker.gpus = []: policy.device = 'cuda' needs one; name it, or train on 'cpu'")
    with _engine() as client:
        settings = common_settings(config, None, mem_limit(client, config))
        settings["mounts"] = [bind_mount(visible.Bind(folder, folder)) for folder in config.executor.docker.mounts]
        settings["device_requests"] = gpu_requests(gpus)
        try:
            asked = ["cuda"] * bool(gpus) + [f"{PLUGIN}{config.policy.plugin}"] * bool(config.policy.plugin)
            printed = output_of(client, settings | {"command": ["versions", *asked]})
        except APIError as error:
            raise ConfigError(_start_failure(config, gpus, engine.reason(error))) from error
    judge_versions(config, gpus, printed)


def judge_versions(config: RunConfig, gpus: list[str], printed: str) -> None:
    """Refuse an image by what its `versions` prints.

    Args:
        config: names the image.
        gpus: those that the container was given.
        printed: its output; the record is the last line.

    Raises:
        ConfigError: zk0 does not start in it, is of another version, or cannot use a GPU.
    """
    image = config.executor.docker.image
    last = (printed.strip().splitlines() or ["no output"])[-1]
    try:
        there = json.loads(last)
    except ValueError as error:
        raise ConfigError(
            f"executor.docker.image = {image!r}: zk0 does not start in it ({last}); build it by {BUILD}"
        ) from error
    here = {package: package_version(package) for package in PACKAGES}
    differing = [f"{name} {there.get(name)}, here {here[name]}" for name in here if there.get(name) != here[name]]
    if differing:
        raise ConfigError(
            f"executor.docker.image = {image!r}: holds other versions, whose results would differ "
            f"({'; '.join(differing)}); build it by {BUILD} of this version"
        )
    if lacking := there.get("plugin"):
        raise ConfigError(
            f"policy.plugin = {config.policy.plugin!r}: executor.docker.image = {image!r} has no package {lacking!r}; "
            f"build an image FROM it with that package installed, and name it"
        )
    if gpus and there["cuda"]:
        raise ConfigError(
            f"executor.docker.gpus = {gpus!r}: a container gets them, but its torch {there['torch']} cannot use CUDA "
            f"({there['cuda']}); update the machine's NVIDIA driver (`nvidia-smi` names it), or train on the CPU: {CPU}"
        )


def settle_places(config: RunConfig) -> RunConfig:
    """Let as many clients be at work as there are GPUs for them, where the config does not say.

    Args:
        config: with policy.device settled.
    """
    if config.executor.max_parallel is not None:
        return config
    places = max(1, len(wanted_gpus(config)))
    return config.model_copy(update={"executor": config.executor.model_copy(update={"max_parallel": places})})


@contextmanager
def _engine() -> Iterator[docker.DockerClient]:
    address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    try:
        client = engine.connect()
    except engine.ENGINE_ERRORS as error:
        raise ConfigError(
            f"executor.kind = 'docker': no Docker engine answers at {address} ({engine.reason(error)}); start it, see "
            "that you may use its socket, or set DOCKER_HOST; or use executor.kind = 'process'"
        ) from error
    with closing(client):
        try:
            yield client
        except RequestException as error:
            if isinstance(error, APIError):
                raise
            raise ConfigError(
                f"executor.kind = 'docker': the engine at {address} stopped answering: {error}"
            ) from error


def output_of(client: docker.DockerClient, settings: dict[str, Any]) -> str:
    """What a container prints until it ends."""
    container = client.containers.create(**settings)
    try:
        container.start()
        container.wait(timeout=CHECK_TIMEOUT_S)
        return str(container.logs().decode(errors="replace"))
    finally:
        engine.remove(container)


def _start_failure(config: RunConfig, gpus: list[str], reason: str) -> str:
    settings = config.executor.docker
    if gpus and ("device driver" in reason or "nvidia" in reason.lower()):
        asked = ", ".join(gpus)
        return (
            f"executor.docker.gpus = {gpus!r}: the Docker engine cannot give a container GPU {asked} ({reason}); "
            "install the NVIDIA Container Toolkit (`nvidia-ctk runtime configure --runtime=docker`, then restart "
            f"Docker), name GPUs that are there, or train on the CPU: {CPU}"
        )
    if "executable file not found" in reason:
        return f"executor.docker.image = {settings.image!r}: is no image of zk0 ({reason}); build it by {BUILD}"
    return f"executor.docker: a container with these settings does not start: {reason}; change the key it names"


def _check_folders(config: RunConfig) -> None:
    """Refuse `mounts` that are not there, and data that a container would not see or may not read."""
    for folder in config.executor.docker.mounts:
        if not Path(folder).is_dir():
            raise ConfigError(f"executor.docker.mounts: {folder!r} is no folder of this machine; correct or remove it")
    for source in visible.read_only_inputs(config):
        if unseen := visible.unseen_mounts(source, config):
            raise ConfigError(
                f"{unseen[0]}: another file system, mounted inside {source}, which a container would find empty; add "
                "its path to executor.docker.mounts"
            )
        if os.getuid() == 0 and (path := _unreadable(source)) is not None:
            raise ConfigError(
                f"{path}: a container, which runs as user {user()[0]} where zk0 is started by root, may not read it; "
                f"`chmod -R o+rX {source}`, or start zk0 as the owner of the data"
            )


def mount_warnings(config: RunConfig) -> list[str]:
    """What is mounted inside a folder of `mounts`, which only the user knows the need of."""
    return [
        f"executor.docker.mounts: {unseen}, mounted inside {folder}, is not seen in containers; add it too if needed"
        for folder in config.executor.docker.mounts
        for unseen in visible.unseen_mounts(Path(folder), config)
    ]


def _unreadable(folder: Path) -> Path | None:
    """The first path in a folder that the containers' user has no right to read."""
    for path in [folder, *sorted(folder.rglob("*"))]:
        try:
            status = path.stat()
        except PermissionError:
            return path  # not even root, on a network's file system
        except OSError:
            continue  # missing, or a link to nothing: `preflight`, which opens the data, names what it needs
        needed = 0o5 if stat.S_ISDIR(status.st_mode) else 0o4
        if status.st_uid != user()[0] and status.st_mode & needed != needed:
            return path
    return None
