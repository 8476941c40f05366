"""How a container is made: what it may see, use and do."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from docker.types import DeviceRequest, LogConfig, Mount

from zk0.config import RunConfig, size_in_bytes
from zk0.executors.docker import visible
from zk0.executors.docker.gpu_turns import all_gpus
from zk0.memory.cgroup import machine_oom_kills
from zk0.work.lock import CONTAINER_MARK
from zk0.work.records import ClientTask

USER = 65532
"""User and group of the containers where the orchestrator is root; the number that distroless images use."""
OOM_KILLS_LABEL = "zk0.oom_kills"
"""The kernel's count of kills for want of memory on the machine when the container was made."""
OOM_SCORE = 500
"""Raises the chance that Linux, out of memory, ends a client rather than anything else of the machine."""
MOST_PROCESSES = 4096


def container_settings(task: ClientTask, config: RunConfig, gpu: str | None, mem_limit: int) -> dict[str, Any]:
    """The arguments of docker's `containers.create` for one piece of work.

    Args:
        task: the work.
        config: of its run.
        gpu: index or UUID of the GPU that it gets.
        mem_limit: most memory, in bytes.
    """
    name = f"zk0-{Path(task.run_dir).name}-{task.server_round:03d}-{task.kind}-{task.client}"
    # The same run may lie in two folders, each with a name of its own.
    name += f"-{hashlib.sha256(f'{task.run_dir}{task.key}'.encode()).hexdigest()[:8]}"
    settings = common_settings(config, gpu, mem_limit)
    settings["environment"] |= {CONTAINER_MARK: name}
    settings["labels"] = {
        "zk0.run_dir": task.run_dir,
        "zk0.run": task.run_id,
        "zk0.round": str(task.server_round),
        "zk0.client": task.client,
        "zk0.kind": task.kind,
        "zk0.key": task.key,
        "zk0.gpu": gpu or "",
        OOM_KILLS_LABEL: str(machine_oom_kills()),
    }
    settings["mounts"] = [bind_mount(bind) for bind in visible.binds(task, config)]
    settings["command"] = ["work", task.model_dump_json(), str(config.executor.timeout_s)]
    return settings | {"name": name}


def common_settings(config: RunConfig, gpu: str | None, mem_limit: int) -> dict[str, Any]:
    """What every container has, whatever it does; the arguments are those of `container_settings`."""
    settings = config.executor.docker
    uid, gid = user()
    home = str(Path.home()) if Path.home() != Path("/") else "/home/zk0"
    # HOME as this user has it, so that `~` in a config means the same; torch asks for a name, which a number has not.
    environment = {"HOME": home, "USER": "zk0", "LOGNAME": "zk0"} | visible.environment()
    environment["PYTHONSAFEPATH"] = "1"  # no file of the working directory hides a module
    in_memory = f"rw,exec,nosuid,nodev,mode=0700,uid={uid},gid={gid}"
    return {
        "image": settings.image,
        "entrypoint": ["python", "-m", "zk0.executors.docker.inside"],
        "environment": environment,
        "user": f"{uid}:{gid}",
        "group_add": [] if os.getuid() == 0 else [str(number) for number in os.getgroups()],
        "working_dir": str(Path.cwd()),  # outputs_dir may be relative to it
        "read_only": True,
        "tmpfs": {"/tmp": in_memory, home: in_memory},  # noqa: S108 - inside the container
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "network_mode": "none",
        "pids_limit": MOST_PROCESSES,
        "init": True,
        "log_config": LogConfig(type="json-file", config={"max-size": "10m", "max-file": "3"}),
        "mem_limit": mem_limit,
        "memswap_limit": mem_limit,
        "oom_score_adj": OOM_SCORE,
        "nano_cpus": int(settings.cpus * 1e9) if settings.cpus else None,
        "shm_size": size_in_bytes(settings.shm_size),
        "device_requests": gpu_requests([gpu] if gpu else []),
    }


def gpu_requests(gpus: Sequence[str]) -> list[DeviceRequest] | None:
    """The engine's record of the GPUs that a container gets; with one that does not exist it does not start."""
    return [DeviceRequest(device_ids=list(gpus), capabilities=[["gpu"]])] if gpus else None


def bind_mount(bind: visible.Bind) -> Mount:
    """The engine's record of a bind; it refuses one whose source is missing.

    Of a folder that may only be read, what is mounted below it is left out: engines before Docker 25, and some newer
    ones, would leave that writable.
    """
    mount = Mount(bind.target, bind.source, type="bind", read_only=not bind.writable)
    if not bind.writable:
        mount["BindOptions"] = {"NonRecursive": True}  # the SDK has no argument for it
    return mount


def user() -> tuple[int, int]:
    """User and group of the containers: the caller's, but never root."""
    return (USER, USER) if os.getuid() == 0 else (os.getuid(), os.getgid())


def wanted_gpus(config: RunConfig) -> list[str]:
    """The GPUs that the run's containers may use, in order."""
    if config.executor.docker.gpus is not None:
        return config.executor.docker.gpus
    return all_gpus() if config.policy.device == "cuda" else []
