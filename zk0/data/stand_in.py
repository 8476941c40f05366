"""A dataset that is elsewhere, as far as a policy is built for it: features, frames per second, robot; no episode."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata

from zk0.files import atomic
from zk0.layout import STAND_IN


def is_stand_in(root: Path) -> bool:
    """Whether a folder has one."""
    return (root / STAND_IN).is_file()


def open_stand_in(repo_id: str, root: Path) -> LeRobotDatasetMetadata:
    """The metadata of a dataset that nobody has here.

    Args:
        repo_id: its label.
        root: its folder.

    Raises:
        StorageError: it cannot be read.
    """
    said: Mapping[str, Any] = atomic.read_sealed(root / STAND_IN)
    features = {name: {**feature, "shape": tuple(feature["shape"])} for name, feature in said["features"].items()}
    with TemporaryDirectory(prefix="zk0-") as scratch:
        return LeRobotDatasetMetadata.create(
            repo_id=repo_id,
            fps=int(said["fps"]),
            features=features,
            robot_type=said["robot_type"],
            root=Path(scratch) / "made",
            use_videos=True,
        )
