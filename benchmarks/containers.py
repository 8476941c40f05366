"""An image that is empty, and a run in its containers: the machine's /usr, Python and checkout are mounted into it."""

import io
import sys
import tarfile
from pathlib import Path
from typing import Any

import docker
from docker.models.containers import Container

from benchmarks.service import ROOT

REPOSITORY = "zk0-test"
IMAGE = f"{REPOSITORY}:latest"


def make_image(client: docker.DockerClient) -> None:
    """Put the empty image into an engine."""
    changes = [f"ENV PATH={sys.prefix}/bin:/usr/bin PYTHONPATH={ROOT}"]
    client.api.import_image_from_data(_empty_image(), repository=REPOSITORY, tag="latest", changes=changes)


def docker_changes() -> dict[str, Any]:
    """What makes the small run's config one with the Docker executor."""
    return {"executor__kind": "docker", "executor__docker": {"image": IMAGE, "mounts": mounts(), "mem_limit": "3g"}}


def mounts() -> list[str]:
    """What the empty image lacks: the system, the interpreter, its packages and zk0."""
    wanted = [Path("/usr"), Path(sys.base_prefix), Path(sys.prefix), ROOT]
    return [str(path) for path in wanted if not any(path != other and path.is_relative_to(other) for other in wanted)]


def containers(client: docker.DockerClient, /, **labels: str) -> list[Container]:
    """The executor's containers, running or not."""
    wanted = ["zk0.key", *(f"zk0.{key}={value}" for key, value in labels.items())]
    return list(client.containers.list(all=True, filters={"label": wanted}, ignore_removed=True))


def _empty_image() -> bytes:
    """A root folder as a tar archive: places to mount at, and the links that lead into /usr."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("usr", "etc", "tmp", "proc", "sys", "dev", "sbin"):  # the engine puts its init into sbin
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(folder)
        for name in ("bin", "lib", "lib64"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
            archive.addfile(link)
        archive.add("/etc/ld.so.cache", "etc/ld.so.cache")  # where libraries lie beside the usual places
    return buffer.getvalue()
