"""A node's home: where its files lie, and node.toml, in which the owner says what the node is and what it may do."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from zk0.config.machine import DockerConfig
from zk0.config.part import Name, Part, size_in_bytes
from zk0.config.paths import FilePath, absolute_path
from zk0.services.toml import entry, read_part

SETTINGS, KEY, PUBLIC_KEY, CA = "node.toml", "key", "key.pub", "ca.pem"
LEDGER, LOG, WORK, FLOWER_HOME = "ledger.jsonl", "node.log", "work", "flwr-home"

ADDRESS = r"^([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):\d{1,5}$"
"""host:port, an IPv6 address in brackets."""
HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-4]):([0-5]\d)")
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")]


class Rules(Part):
    """[rules]: what the owner allows; what a link asks beyond it is refused by name, before a run and at each task."""

    runs: list[str] | None = None
    """Names of the runs that it takes part in, `*` for any letters: ["bench-*"]; all when absent."""
    config_digests: list[Digest] | None = None
    """Digests of the configs that it takes part in, or their first 8 letters or more (`zk0 node dry-run` and the
    coordinator's run.json show them); all when absent."""
    num_rounds: int | None = Field(default=None, ge=1)
    """Longest run that it takes part in, in rounds."""
    hours: list[str] | None = None
    """Times of the day, by the node's own clock and time zone, in which work may begin: ["22:00-06:00"]; all when
    absent."""
    days: list[Day] | None = None
    """Days of the week on which work may begin: ["sat", "sun"]; all when absent."""
    steps_per_fit: int | None = Field(default=None, ge=1)
    """Most optimizer steps in one round."""
    steps_per_day: int | None = Field(default=None, ge=1)
    """Most optimizer steps that begin within 24 hours, of all runs together."""
    batch_size: int | None = Field(default=None, ge=1)
    """Most frames per step, or per batch of an evaluation."""
    memory: str | None = None
    """Most memory of the host that work may use, such as "6g"; work that grows beyond ends itself."""
    gpu: bool = True
    """Whether the GPU may be used."""
    policy_types: list[str] | None = None
    """LeRobot types of the policies that it trains: ["smolvla"]; all that are installed when absent."""
    bases: list[str] | None = None
    """The bases (`policy.path`) that it loads, `*` for any letters: ["lerobot/*"]; all when absent."""
    plugins: list[str] = Field(default_factory=list)
    """Packages (`policy.plugin`) whose code may be imported; none when absent."""
    full_fine_tuning: bool = False
    """Whether every trainable tensor of the policy may leave, and not just adapters."""
    full_modules: list[str] = Field(default_factory=list)
    """Modules that may leave in full beside adapters (`peft.full_training_modules`): ["action_out_proj"]; none when
    absent."""
    optimizer_state: bool = False
    """Whether the optimizer's state (Adam's moments, of the size of two updates) may leave after a fit; the coordinator
    keeps it for the next one (`training.optimizer_state = "keep"`)."""
    statistics: bool = True
    """Whether counts and moments (mean, std, min, max, quantiles) of the joints and pictures may leave, for a common
    normalisation."""
    joint_charts: bool = False
    """Whether the joints' positions in one held-out episode may leave, for the coordinator's charts."""
    episode_metrics: bool = True
    """Whether errors may leave by held-out episode; an evaluation has them, so without this none is done here."""

    @field_validator("hours")
    @classmethod
    def _times(cls, hours: list[str] | None) -> list[str] | None:
        for text in hours or []:
            found = HOURS.fullmatch(text)
            if found is None or (found[3] == "24" and found[4] != "00"):
                raise ValueError(f'{text!r} is no time of the day; write it as "22:00-06:00"')
        return hours

    @field_validator("memory")
    @classmethod
    def _size(cls, memory: str | None) -> str | None:
        if memory is not None:
            size_in_bytes(memory)
        return memory


class NodeSettings(Part):
    """node.toml: who the node is, where its recordings lie, and what it may do."""

    link: str = Field(pattern=ADDRESS)
    """The link's address, host:port, as its coordinator gives it."""
    client: Name
    """The node's name in the run's config, as the coordinator registered it."""
    root: FilePath
    """The folder of the recordings, a LeRobot dataset."""
    executor: Literal["process", "docker"] = "process"
    """Where work runs: in a process, or in a container without network and with nothing but the recordings."""
    device: Literal["auto", "cpu", "cuda"] | None = None
    """Where it trains; the run's own choice when absent."""
    num_threads: int | None = Field(default=None, ge=1)
    """torch CPU threads; the run's own number when absent."""
    num_workers: int | None = Field(default=None, ge=0)
    """DataLoader processes; the run's own number when absent."""
    video_backend: Literal["pyav", "torchcodec"] | None = None
    """Video decoder; the run's own when absent."""
    docker: DockerConfig = DockerConfig()
    """[docker]: the containers of executor = "docker"."""
    rules: Rules = Rules()
    """[rules]: what the owner allows."""

    @field_validator("root")
    @classmethod
    def _absolute(cls, root: str) -> str:
        if not root.startswith(("/", "~", "asset:")):
            raise ValueError(f"{root!r} is not absolute; give the folder's path from / on")
        return root

    @field_validator("link")
    @classmethod
    def _port(cls, link: str) -> str:
        if not 1 <= int(link.rpartition(":")[2]) <= 65535:
            raise ValueError(f"{link!r} has no port from 1 to 65535; write host:port")
        return link

    @model_validator(mode="after")
    def _gpu_is_allowed(self) -> Self:
        if self.device == "cuda" and not self.rules.gpu:
            raise ValueError('device = "cuda" and rules.gpu = false do not go together; change one of them')
        return self

    @property
    def own_device(self) -> str | None:
        """Where it trains, as the owner said or as the rules imply; None for the run's own choice."""
        return self.device if self.rules.gpu else "cpu"

    @property
    def recordings(self) -> Path:
        """The folder of the recordings."""
        return absolute_path(self.root)

    @property
    def endpoint(self) -> tuple[str, int]:
        """Host and port of the link."""
        host, _, port = self.link.rpartition(":")
        return host.strip("[]"), int(port)


def load(home: Path) -> NodeSettings:
    """Read a node's node.toml.

    Raises:
        ConfigError: there is none, or a key in it is wrong; every fault is named.
    """
    return read_part(NodeSettings, home / SETTINGS, f"`zk0 node key {home}` makes one")


def node_toml(values: dict[str, Any]) -> str:
    """The text of a new node.toml; keys without a value are there as comments."""
    lines = ["# What this node is, and what its owner allows. Every key: docs/federation.md.", ""]
    for name in ("link", "client", "root", "executor", "device"):
        lines += entry(NodeSettings, name, values.get(name))
    lines.append("[rules]")
    for name in Rules.model_fields:
        lines += entry(Rules, name)
    return "\n".join(lines).rstrip() + "\n"
