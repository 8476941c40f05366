"""The versions of LeRobot's dataset format: which this LeRobot reads, and how an older recording becomes one."""

import shlex
from pathlib import Path
from typing import Any

from lerobot.datasets.dataset_metadata import CODEBASE_VERSION
from packaging.version import InvalidVersion, Version

from zk0.config import DatasetConfig
from zk0.data.faults import fault, shown
from zk0.errors import DatasetError

KNOWN = Version(CODEBASE_VERSION)
"""The newest format that this LeRobot writes."""
LAST_OLD = Version("2.1")
"""The only older one that LeRobot's converter takes."""
KEY = "codebase_version"
OLDER = (
    "`python -m lerobot.datasets.v21.convert_dataset_v20_to_v21 --repo-id={repo_id}{root}` of lerobot==0.3.3 makes v2.1"
)
"""What made v2.1 of v2.0: LeRobot has dropped it since."""
FIX = "`zk0 check-data CONFIG --fix-to FOLDER` writes a converted copy"


class OldFormatError(DatasetError):
    """A recording that can be converted.

    Args:
        message: what is wrong, and what to do.
        root: its folder; None where it lies on the hub, or is not known.
        version: of its format; None where it does not say.
    """

    def __init__(self, message: str, root: Path | None = None, version: Version | None = None) -> None:
        super().__init__(message)
        self.root, self.version = root, version


def check_version(dataset: DatasetConfig, root: Path, info: dict[str, Any]) -> None:
    """Refuse recordings of another format than LeRobot reads: it would misread them, or ask the hub for others.

    Raises:
        OldFormatError: names the version, and LeRobot's converter with its arguments for this folder.
        DatasetError: it is newer, or no version.
    """
    file, version = root / "meta" / "info.json", parsed(info.get(KEY))
    if version is None:
        seen = f"{KEY} = {shown(info[KEY])} is no version" if KEY in info else f"has no {KEY}"
        if is_old_layout(root):
            remedy = conversion(dataset, root, LAST_OLD)
            raise OldFormatError(str(fault(dataset, file, f"{seen}; its files are those of v2", remedy)), root)
        raise fault(dataset, file, f"{seen}; its files are those of v3", f'write "{KEY}": "{CODEBASE_VERSION}" into it')
    if version.major < KNOWN.major:
        seen = f"{KEY} = {info[KEY]!r} is older than {CODEBASE_VERSION}, which this LeRobot reads"
        if is_new_layout(root) and not is_old_layout(root):
            seen += "; its files are those of v3, so that the key may be wrong"
        remedy = conversion(dataset, root, version)
        raise OldFormatError(str(fault(dataset, file, seen, remedy)), root, version)
    if version.major > KNOWN.major:
        seen = f"{KEY} = {info[KEY]!r} is newer than {CODEBASE_VERSION}, the newest that this LeRobot knows"
        raise fault(dataset, file, seen, f"use a newer zk0, or record or export the dataset as {CODEBASE_VERSION}")


def refuse_v1(dataset: DatasetConfig, root: Path) -> None:
    """Refuse a recording of LeRobot's first format, which has other folders.

    Raises:
        DatasetError: names what converts it.
    """
    if (root / "meta_data" / "info.json").is_file():
        seen = f"is of LeRobot's format v1, older than {CODEBASE_VERSION}, which this LeRobot reads"
        older = f"`python -m lerobot.datasets.v2.convert_dataset_v1_to_v2 --repo-id={dataset.repo_id} ...` of lerobot=="
        raise fault(
            dataset,
            root / "meta_data" / "info.json",
            seen,
            f"{older}0.3.3 makes v2.0 of the hub's copy, {OLDER.format(repo_id=dataset.repo_id, root='')}, and then "
            f"{_command(dataset, None)} a dataset that this LeRobot reads",
        )


def hub_fault(dataset: DatasetConfig, tags: list[Version]) -> DatasetError:
    """What is wrong with a repository on the hub that has none of the versions which LeRobot reads.

    Args:
        dataset: as the config has it.
        tags: its branches and tags that are versions.
    """
    where = f"repo_id = {dataset.repo_id!r}"
    if not tags:
        tag = f'HfApi().create_tag("{dataset.repo_id}", tag="{CODEBASE_VERSION}", repo_type="dataset")'
        return fault(
            dataset,
            where,
            "has no version tag on the hub, by which LeRobot finds a dataset",
            f'set revision = "main" if its meta/info.json says {CODEBASE_VERSION}, or tag it (`python -c \'from '
            f"huggingface_hub import HfApi; {tag}'`)",
        )
    newest, spoken = max(tags), ", ".join(f"v{tag}" for tag in sorted(set(tags)))
    if dataset.revision and any(tag.major == KNOWN.major for tag in tags):
        seen = f"revision = {dataset.revision!r} is of another format than {CODEBASE_VERSION}, which this LeRobot reads"
        return fault(dataset, where, seen, f"leave revision out: the hub has {spoken}")
    if newest.major < KNOWN.major:
        seen = f"is {spoken} on the hub, older than {CODEBASE_VERSION}, which this LeRobot reads"
        return OldFormatError(str(fault(dataset, where, seen, conversion(dataset, None, newest))), None, newest)
    seen = f"is {spoken} on the hub, newer than {CODEBASE_VERSION}, the newest that this LeRobot knows"
    return fault(dataset, where, seen, 'use a newer zk0, or set revision = "main" to try it as it is')


def conversion(dataset: DatasetConfig, root: Path | None, version: Version) -> str:
    """What makes a recording of an old version readable: our copy, and LeRobot's own commands.

    Args:
        dataset: as the config has it.
        root: its folder; None on the hub.
        version: of the recording.
    """
    command = _command(dataset, root)
    if version < LAST_OLD:
        place = f" --root={shlex.quote(str(root))}" if root else ""
        command = f"{OLDER.format(repo_id=dataset.repo_id, root=place)}, and then {command}"
    where = "it where it lies" if root is not None else "it into LeRobot's cache, where zk0 finds it"
    return f"{FIX}, or {command} converts {where}"


def parsed(version: Any) -> Version | None:
    """A format's version; None where it is none."""
    try:
        return Version(version)
    except (InvalidVersion, TypeError):
        return None


def is_old_layout(root: Path) -> bool:
    """Whether a folder has the files of v2: lists of lines in meta/, a data file for each episode."""
    return (root / "meta" / "episodes.jsonl").is_file()


def is_new_layout(root: Path) -> bool:
    """Whether a folder has the files of v3: tables in meta/."""
    return (root / "meta" / "tasks.parquet").is_file() and any((root / "meta" / "episodes").glob("*/*.parquet"))


def _command(dataset: DatasetConfig, root: Path | None) -> str:
    place = f" --root={shlex.quote(str(root))}" if root is not None else ""
    repo = f"--repo-id={shlex.quote(dataset.repo_id)}"
    return f"`python -m lerobot.scripts.convert_dataset_v21_to_v30 {repo}{place} --push-to-hub=false`"
