"""How much memory a container may have, so that a client ends before the machine does."""

from typing import Any

import docker
import psutil
from docker.errors import NotFound
from docker.models.containers import Container

from zk0.config import RunConfig, size_in_bytes
from zk0.executors.docker.engine import labelled
from zk0.memory.usage import container_share


def mem_limit(client: docker.DockerClient, config: RunConfig, run_dir: str | None = None) -> int:
    """Most memory of the next container, in bytes: as configured, or its share of what is free.

    Args:
        client: of the engine.
        config: the run's.
        run_dir: of the run that the container is for; what its others hold is shared out anew, what is another
            run's is not ours to share.
    """
    if config.executor.docker.mem_limit is not None:
        return size_in_bytes(config.executor.docker.mem_limit)
    memory = psutil.virtual_memory()
    ours = labelled(client, {"zk0.run_dir": run_dir}) if run_dir else []
    held = sum(_in_use(container) for container in ours if container.status == "running")
    return container_share(memory.total, memory.available + held, config.executor.places)


def _in_use(container: Container) -> int:
    """Bytes that a container holds; file pages that the kernel would drop by itself are free already."""
    try:
        stats = container.stats(stream=False, one_shot=True)
    except NotFound:
        return 0  # ended meanwhile
    return held_bytes(stats.get("memory_stats", {}))


def held_bytes(memory_stats: dict[str, Any]) -> int:
    """What `docker stats` shows as used, of the engine's record; in cgroups of version 1 and 2."""
    parts = memory_stats.get("stats", {})
    droppable = parts.get("total_inactive_file", parts.get("inactive_file", 0))
    return max(0, int(memory_stats.get("usage", 0)) - int(droppable))
