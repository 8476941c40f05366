"""What the parts of the Docker executor are tried with, without an engine."""

import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks.service import small_run
from zk0.config import RunConfig, validate_config
from zk0.executors.docker.settings import OOM_KILLS_LABEL
from zk0.memory.usage import GIB
from zk0.runs.store import RunStore
from zk0.work.records import ArtifactRef, ClientTask, TaskKind

INCOMING = ArtifactRef(path="rounds/0000/global.safetensors", sha256="0" * 64, size=1)
STATS = ArtifactRef(path="rounds/0000/stats.safetensors", sha256="0" * 64, size=1)


def config(tmp_path: Path, **changes: Any) -> RunConfig:
    data = small_run(tmp_path / "outputs", executor__kind="docker", **changes)
    for client in data["clients"]:
        client["root"] = str(tmp_path / client["name"])
    return validate_config(data)


def task(settings: RunConfig, kind: TaskKind = "train", client: str = "kitchen") -> ClientTask:
    made = RunStore.create_or_open(settings, "a-run").task(kind, 1, client)
    return made.model_copy(update={"incoming": INCOMING, "stats": STATS} if kind in ("train", "evaluate") else {})


def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: str) -> None:
    """A tool of that name that lists these GPUs."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\nprintf '{printed}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")


KERNEL_KILLS = 7
"""What the kernel counts on the machine when a container has ended."""


def state(code: int, *, oom: bool = False, error: str = "", kills: int = 0) -> dict[str, Any]:
    """What the engine says of an ended container; `kills`: by the kernel, on the machine, since it was made."""
    return {
        "Config": {"Labels": {OOM_KILLS_LABEL: str(KERNEL_KILLS - kills)}},
        "State": {"ExitCode": code, "OOMKilled": oom, "Error": error, "Status": "exited"},
        "HostConfig": {"Memory": 2 * GIB},
    }
