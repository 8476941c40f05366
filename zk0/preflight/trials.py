"""What a trial of the policy gave, remembered by all that it depends on, so that the same is not tried again.

Only good ones are remembered, and of a policy whose files lie in one folder here and whose code is LeRobot's own.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from functools import cache as once
from pathlib import Path

import torch
from huggingface_hub.constants import CONFIG_NAME
from pydantic import ValidationError

from zk0.config import RunConfig
from zk0.data.digest import UNREADABLE, file_digests
from zk0.files import cache
from zk0.learning.policy import source_path
from zk0.preflight.pretrained import ADAPTER_CONFIG, read_json
from zk0.preflight.verdicts import version_of
from zk0.runs.versions import versions
from zk0.work.records import Record

KIND = "trials"
EVERYTHING = (".",)
IRRELEVANT = {"outputs_dir", "continue_from", "logging", "report", "checkpoint", "executor", "memory"}


class Step(Record):
    """What a step of learning needs, in bytes."""

    fixed: int
    """Weights, gradients, optimizer, and the process itself."""
    per_frame: int
    """Activations of one frame."""


class Tried(Record):
    """What came of a trial."""

    exchanged_bytes: int
    """One set of the tensors that travel."""
    base_bytes: int
    """The base that the run must keep in its own directory."""
    warnings: list[str]
    """What a person should look at."""
    step: Step | None
    """None where none was tried."""


def key_of(config: RunConfig, files: Mapping[str, Mapping[str, str]]) -> str | None:
    """A digest of all that a trial depends on; None where that cannot be told.

    Args:
        config: settled.
        files: dataset -> path within it -> SHA-256.
    """
    folder = Path(source_path(config.policy)) if config.policy.path is not None else None
    if folder is None or not folder.is_dir() or (folder / ADAPTER_CONFIG).exists() or config.evaluation.environments:
        return None
    named = [
        *read_json(folder / CONFIG_NAME, f"policy.path = {config.policy.path!r}").values(),
        *config.policy.overrides.values(),
        config.policy.plugin,
    ]
    if any(isinstance(item, str) and ("/" in item or item == config.policy.plugin) for item in named):
        return None  # models of the hub or of other folders, and code of others
    base = file_digests(folder, parts=EVERYTHING)
    if len(files) < len(config.datasets) or UNREADABLE in base.values():
        return None
    relevant = {
        "config": config.model_dump(mode="json", exclude=IRRELEVANT),
        "base": base,
        "folder": str(folder),
        "files": files,
        "versions": versions(),
        "device": torch.cuda.get_device_name() if config.policy.device == "cuda" else config.policy.device,
        "code": _code(),
    }
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()


def recall(key: str | None, *, probe: bool) -> Tried | None:
    """What came of the same trial before; None where there is none, or a step is to be tried and was not."""
    if key is None:
        return None
    with suppress(ValidationError):  # none, or of another zk0
        found = Tried.model_validate(cache.read(KIND, key))
        return None if probe and found.step is None else found
    return None


def remember(key: str | None, tried: Tried) -> None:
    """Keep what came of a trial."""
    if key is not None:
        cache.write(KIND, key, tried.model_dump(mode="json"))


@once
def _code() -> str:
    here = Path(__file__).parents[1]
    return version_of(here / "preflight", here / "learning", here / "data", here / "client")
