"""What was found in a dataset, remembered by what its files hold, so that the same is not looked for again."""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from functools import cache as once
from pathlib import Path

import av
import lerobot
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from pydantic import ValidationError

from zk0.config import DatasetConfig, RunConfig, resolve_path
from zk0.data.datasets import open_metadata
from zk0.data.digest import UNREADABLE
from zk0.files import cache
from zk0.preflight.records import Examined
from zk0.runs.records import digest_of

KIND = "verdicts"
Key = Callable[[bool], str]
"""The record's key, by whether every frame was decoded."""


def folder_of(dataset: DatasetConfig) -> Path:
    """Where a dataset lies; of one on the hub, where its copy does.

    Raises:
        DatasetError: it cannot be told, for its metadata cannot be read.
    """
    return resolve_path(dataset.root) if dataset.root is not None else Path(open_metadata(dataset).root)


def verdict_key(
    config: RunConfig,
    dataset: DatasetConfig,
    root: Path,
    files: dict[str, str],
    first: LeRobotDatasetMetadata | None,
    every_frame: bool,
) -> str:
    """A digest of all that the findings in a dataset depend on, the code of the checks included."""
    relevant = {
        "files": digest_of(files),
        "root": str(root),
        "dataset": dataset.model_dump(mode="json"),
        "client": any(client.name == dataset.name for client in config.clients),
        "data": config.data.model_dump(mode="json"),
        "holdout": config.evaluation.holdout_episodes,
        "first": None if first is None else repr(sorted(first.features.items())),
        "every_frame": every_frame,
        "checks": _version_of_checks(),
    }
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()


def recall(key: Key, *, every_frame: bool) -> Examined | None:
    """What was found before; a look at every frame serves where a few would do."""
    for thorough in (True,) if every_frame else (True, False):
        with suppress(ValidationError):  # none, or of another zk0
            return Examined.model_validate(cache.read(KIND, key(thorough)))
    return None


def remember(key: Key, found: Examined, *, every_frame: bool) -> None:
    """Keep what was found, unless something is wrong: that is looked at again, as is what has no files yet."""
    if (
        found.files
        and UNREADABLE not in found.files.values()
        and not any(finding.verdict == "error" for finding in found.findings)
    ):
        record = found.model_copy(update={"files": {}}).model_dump(mode="json")
        cache.write(KIND, key(every_frame), record)


@once
def _version_of_checks() -> str:
    """A digest of the code that looks at datasets, and of what it decodes and reads them by."""
    return version_of(Path(__file__).parent, Path(__file__).parents[1] / "data")


def version_of(*rooms: Path) -> str:
    """A digest of the code in some folders, and of what it decodes and reads datasets by."""
    code = [path.read_bytes() for room in rooms for path in sorted(room.glob("*.py"))]
    versions = f"{lerobot.__version__} {av.__version__}".encode()
    return hashlib.sha256(b"\0".join([versions, *code])).hexdigest()
