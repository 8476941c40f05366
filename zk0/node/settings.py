"""What a node is: `node.toml` in its home."""

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zk0.config import DockerConfig
from zk0.errors import ConfigError

SETTINGS_FILE = "node.toml"


class NodeSettings(BaseModel):
    """How an owner's work is done."""

    model_config = ConfigDict(frozen=True, extra="allow")
    client: str
    """The name that the owner goes by."""
    root: str
    """Folder of the recordings."""
    executor: Literal["process", "docker"] = "process"
    """Where work runs."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What it runs on."""
    num_threads: int | None = Field(default=None, ge=1)
    """Torch's threads; the run's when absent."""
    num_workers: int | None = Field(default=None, ge=0)
    """Processes that load data; the run's when absent."""
    video_backend: Literal["pyav", "torchcodec"] | None = None
    """The decoder of videos; the run's when absent."""
    docker: DockerConfig = DockerConfig()
    """Containers, with executor = "docker"."""


def load(home: Path) -> NodeSettings:
    """Read a node's settings.

    Raises:
        ConfigError: they cannot be read, or not used.
    """
    path = home / SETTINGS_FILE
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return NodeSettings.model_validate(data)
    except (OSError, ValueError, ValidationError) as error:
        raise ConfigError(f"{path}: {error}") from error
