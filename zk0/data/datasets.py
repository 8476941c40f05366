"""Open and split LeRobot datasets, and compute the statistics of chosen episodes."""

import glob
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
from datasets.exceptions import DatasetsError
from lerobot.configs.policies import PreTrainedConfig
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.factory import resolve_delta_timestamps
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.datasets.utils import CompatibilityError, get_repo_versions, has_legacy_hub_download_metadata
from lerobot.utils.constants import HF_LEROBOT_HOME
from packaging.version import Version

from zk0.config import DataConfig, DatasetConfig, resolve_path
from zk0.data.faults import fault, read_json, require, shown
from zk0.data.hub import HUB_ERRORS, patiently
from zk0.data.info import check_info
from zk0.data.names import name_axes
from zk0.data.stand_in import is_stand_in, open_stand_in
from zk0.data.tables import check_episodes_table, check_tasks
from zk0.data.versions import check_version, hub_fault, refuse_v1
from zk0.errors import DatasetError, first_line

DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, pa.ArrowException, DatasetsError)
"""What LeRobot raises on metadata that it cannot take, beside what we found before it."""
METADATA = (Path("meta/info.json"), Path("meta/tasks.parquet"))
"""Without which, or any table in meta/episodes, LeRobot turns to the hub."""
DAMAGED = "restore meta/ from the original, or record the dataset again"


def open_metadata(dataset: DatasetConfig) -> LeRobotDatasetMetadata:
    """Read a dataset's `meta/` folder, from disk or from the hub; with `root` the hub is never asked.

    Raises:
        DatasetError: there is no such dataset, or its metadata cannot be read or contradict one another.
    """
    root = _root(dataset)
    if root is not None and is_stand_in(root):
        return open_stand_in(dataset.repo_id, root)
    if root is not None:
        _refuse_pattern(dataset, root)
        check_metadata(dataset, root)
    else:
        _check_cached(dataset)
    try:
        meta = patiently(
            lambda: LeRobotDatasetMetadata(dataset.repo_id, root=root, revision=dataset.revision), dataset.repo_id
        )
    except HUB_ERRORS as error:
        raise unfetched(dataset, error) from error
    except (CompatibilityError, NotImplementedError, RuntimeError) as error:
        raise hub_fault(dataset, _tags(dataset)) from error
    except DAMAGE as error:
        where = str(root or f"repo_id = {dataset.repo_id!r}")
        raise fault(dataset, where, f"its metadata are damaged ({first_line(error)})", DAMAGED) from error
    if root is None:
        check_metadata(dataset, Path(meta.root))
    if meta.robot_type is not None:
        meta.info.robot_type = str(meta.robot_type)  # LeRobot takes anything, and looks at none of it
    name_axes(meta.features)
    return meta


def _refuse_pattern(dataset: DatasetConfig, root: Path) -> None:
    """Refuse a folder whose name LeRobot takes for a pattern of names: it hands paths on to `datasets` as they are.

    Raises:
        DatasetError: names it.
    """
    path = str(root)
    if "::" in path or "**" in path or (root.exists() and glob.glob(path) != [path]):  # noqa: PTH207 - as theirs
        raise DatasetError(
            f"dataset {dataset.name!r}: root = {dataset.root!r}: LeRobot reads [ ], *, ? and :: in a path as a "
            "pattern, and finds none there, or another; rename the folder, or give a link to it without such signs"
        )


def check_metadata(dataset: DatasetConfig, root: Path) -> None:
    """See that `meta/` is whole and agrees with itself before LeRobot, or we, index anything by it.

    Raises:
        DatasetError: names the file, the key or column, its value and the remedy.
    """
    if not (root / "meta" / "info.json").exists():
        refuse_v1(dataset, root)
        blanks = " (it has blanks at its end)" if root.name != root.name.strip() else ""
        raise DatasetError(
            f"dataset {dataset.name!r}: root = {dataset.root!r} holds no LeRobot dataset (no meta/info.json){blanks}; "
            "give the folder that contains meta/, data/ and videos/"
        )
    info = check_info(dataset, root)
    if not info.get("total_episodes") and not any((root / "meta" / "episodes").glob("*/*.parquet")):
        raise DatasetError(f"dataset {dataset.name!r}: has no episodes; record some, or remove it from the config")
    check_tasks(dataset, root, info)
    check_episodes_table(dataset, root, info)
    if (stats := root / "meta" / "stats.json").exists():
        content = read_json(dataset, stats)
        if not isinstance(content, dict):
            raise fault(dataset, stats, f"is damaged (it holds {shown(content)}, not keys and values)")


def _check_cached(dataset: DatasetConfig) -> None:
    """A recording that an older LeRobot left where LeRobot looks first: its version is named, with its folder."""
    root = HF_LEROBOT_HOME / dataset.repo_id
    if (root / "meta" / "info.json").is_file() and not has_legacy_hub_download_metadata(root):
        info = read_json(dataset, root / "meta" / "info.json")
        check_version(dataset, root, info if isinstance(info, dict) else {})


def unfetched(dataset: DatasetConfig, error: Exception) -> DatasetError:
    """What the hub did not give, as an error for a person."""
    return DatasetError(
        f"dataset {dataset.name!r}: repo_id = {dataset.repo_id!r} cannot be fetched from the hub "
        f"({first_line(error)}); check the id, your connection and `hf auth login`, or give its folder as root"
    )


def _tags(dataset: DatasetConfig) -> list[Version]:
    """The versions that a repository on the hub has.

    Raises:
        DatasetError: the hub does not answer.
    """
    try:
        return list(patiently(lambda: get_repo_versions(dataset.repo_id), dataset.repo_id))
    except HUB_ERRORS as error:
        raise unfetched(dataset, error) from error


def split_episodes(total_episodes: int, holdout_episodes: int) -> tuple[list[int], list[int]]:
    """Split episode indices into those trained on and the held-out last ones."""
    first_held_out = total_episodes - holdout_episodes
    return list(range(first_held_out)), list(range(first_held_out, total_episodes))


def build_dataset(
    dataset: DatasetConfig,
    meta: LeRobotDatasetMetadata,
    policy: PreTrainedConfig,
    data: DataConfig,
    episodes: list[int],
) -> LeRobotDataset:
    """Open the frames of some episodes, with the action chunks that the policy asks for.

    As LeRobot's `make_dataset`, which would read the metadata, the dearest part of a short fit, once more.

    Raises:
        DatasetError: `root` is given and a file is gone; LeRobot would fetch it from the hub, into that folder.
    """
    if dataset.root is not None:
        for file in (Path(meta.root) / name for name in (*METADATA, *files_of(meta, episodes))):
            require(dataset, file)
    return LeRobotDataset(
        dataset.repo_id,
        root=meta.root,
        episodes=episodes,
        delta_timestamps=resolve_delta_timestamps(policy, meta),
        revision=dataset.revision,
        video_backend=data.video_backend,
        return_uint8=True,
        tolerance_s=data.tolerance_s,
    )


def files_of(meta: LeRobotDatasetMetadata, episodes: Iterable[int] | None = None) -> list[Path]:
    """The data and video files of some episodes, or of all, relative to the dataset's folder."""
    rows = meta.episodes if episodes is None else meta.episodes.select(list(episodes))
    places = zip(rows["data/chunk_index"], rows["data/file_index"], strict=True)
    found = {Path(meta.data_path.format(chunk_index=chunk, file_index=file)) for chunk, file in places}
    for key in meta.video_keys:
        places = zip(rows[f"videos/{key}/chunk_index"], rows[f"videos/{key}/file_index"], strict=True)
        path = str(meta.video_path)
        found |= {Path(path.format(video_key=key, chunk_index=chunk, file_index=file)) for chunk, file in places}
    return sorted(found)


def _root(dataset: DatasetConfig) -> Path | None:
    return resolve_path(dataset.root) if dataset.root is not None else None
