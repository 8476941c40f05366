"""How much memory a container may have, so that a client ends before the machine does."""

import docker
import psutil
from docker.errors import NotFound
from docker.models.containers import Container
from docker.utils import parse_bytes

from zk0.config import RunConfig
from zk0.executors.docker.engine import labelled

GIB = 2**30


def mem_limit(client: docker.DockerClient, config: RunConfig) -> int:
    """Most memory of the next container, in bytes: as configured, or its share of what is free."""
    if config.executor.docker.mem_limit is not None:
        return int(parse_bytes(config.executor.docker.mem_limit.lower()))
    memory = psutil.virtual_memory()
    # What our own containers hold is part of what is shared out.
    held = sum(_in_use(container) for container in labelled(client, {}) if container.status == "running")
    return share(memory.total, memory.available + held, config.executor.max_parallel)


def share(total: int, available: int, places: int) -> int:
    """One place's share of the free memory less a reserve; never below 1 GiB, with which nothing would start.

    Args:
        total: memory of the machine, in bytes.
        available: what can be had without swapping, in bytes.
        places: containers that may run at the same time.
    """
    reserve = max(total // 10, 2 * GIB)
    return max((available - reserve) // places, GIB)


def _in_use(container: Container) -> int:
    try:
        stats = container.stats(stream=False, one_shot=True)
    except NotFound:
        return 0  # ended meanwhile
    return int(stats.get("memory_stats", {}).get("usage", 0))
