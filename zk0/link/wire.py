"""What goes over a link: a request for one piece of work, and what its node says to it; tensors are only named."""

import hashlib
import json
from typing import Any, Literal

from pydantic import Field

from zk0.config import SUPERLINK, ExecutorConfig, FederationConfig, RunConfig, validate_config
from zk0.errors import FailureCause
from zk0.work.records import ArtifactRef, ClientTask, Record

MOST_FILES = 64
"""Of one request or answer."""
STEPS = ("step", "steps", "loss")
MEMORY = (
    *("at", "started", "rss_gib", "tree_gib", "tree_pct", "peak_gib", "processes", "ram_gib", "ram_pct"),
    *("cgroup_gib", "cgroup_pct", "cgroup_limit_gib", "vram_gib", "vram_pct"),
)
"""What is told of work under way: how far a fit is, and of a line of memory.jsonl what is no name of the node's."""


class Request(Record):
    """What a client is asked for."""

    ask: str = Field(pattern=r"^[0-9a-f]{32}$")
    """Identity of this asking: the same work may be asked for again after it failed."""
    what: Literal["describe", "work"]
    """describe: look at the recordings, and try the policy on them; work: `task`."""
    client: str
    """Who is asked."""
    key: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Identity of what is asked for: ClientTask.key, or the digest of the terms."""
    run: str = ""
    """The run's name; empty before there is one."""
    task: ClientTask | None = None
    """The work, without the coordinator's folder."""
    terms: dict[str, Any]
    """The run's config as far as the work needs it: see `terms`."""
    recordings: str | None = None
    """Digest of the recordings that the run was begun with; None before that."""
    files: list[ArtifactRef] = Field(default_factory=list, max_length=MOST_FILES)
    """What comes with it, relative to the run directory."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Of the coordinator's packages."""
    until: float
    """When the coordinator stops waiting for it, in seconds since 1970."""


class Answer(Record):
    """What a node says to a request."""

    ask: str
    """Request.ask."""
    state: Literal["done", "failed", "working", "unknown", "ended"]
    """unknown: the node has no such request, and needs it again; ended: it was not wanted any more, and is not done."""
    result: str = ""
    """The file that says that the work is done, as it is."""
    files: list[ArtifactRef] = Field(default_factory=list, max_length=MOST_FILES)
    """What comes with it, relative to the run directory."""
    described: dict[str, Any] = Field(default_factory=dict)
    """What the node says of its recordings."""
    cause: FailureCause = "error"
    """Why it failed."""
    message: str = ""
    """The same in zk0's own words."""
    repeats: bool = False
    """Whether it would fail so again."""
    progress: dict[str, float] = Field(default_factory=dict)
    """How far work under way is, and what memory it uses."""


class Ending(Record):
    """That a request is not wanted any more: what its node has begun of it ends, and is kept for the next asking."""

    ask: str
    """Request.ask."""
    client: str
    """Whose node is told."""
    until: float
    """When nobody needs to be told any more, in seconds since 1970: the work has its own limit."""


def terms(config: RunConfig, client: str) -> RunConfig:
    """A run's config as one client gets it: what its own work needs, and nothing of the others or of the coordinator.

    Where and how the work is done is the node's own: its folder, device and threads, and its executor.

    Args:
        config: the run's.
        client: its name.
    """
    own = next(item for item in config.clients if item.name == client)
    kept = config.model_dump(mode="json", include={"seed", "policy", "peft", "training", "data", "memory", "report"})
    evaluation = config.evaluation.model_dump(mode="json", exclude={"datasets", "environments", "best_metric"})
    limits = {"kind": SUPERLINK, "timeout_s": config.executor.timeout_s}
    return validate_config(
        {
            **kept,
            "clients": [own.model_copy(update={"root": None, "revision": None}).model_dump(mode="json")],
            "evaluation": evaluation,
            "federation": FederationConfig(num_rounds=config.federation.num_rounds).model_dump(mode="json"),
            "executor": ExecutorConfig.model_validate(limits).model_dump(mode="json"),
            "checkpoint": config.checkpoint.model_dump(mode="json"),
            "policy": {**kept["policy"], "device": "auto"},
        }
    )


def digest_of_terms(given: RunConfig) -> str:
    """What identifies a question about them, in hex."""
    return hashlib.sha256(json.dumps(given.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()
