"""All checks of a dataset, and against the policy."""

from collections.abc import Iterator
from functools import partial

import numpy as np
from lerobot.configs.policies import PreTrainedConfig
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from numpy.typing import NDArray

from zk0.config import DatasetConfig, RunConfig
from zk0.data.checks import (
    check_doubled,
    check_episodes,
    check_indices,
    check_metadata,
    check_rows,
    check_timestamps,
    check_video_times,
)
from zk0.data.datasets import open_metadata
from zk0.data.digest import Say, file_digests
from zk0.data.faults import RECORD_AGAIN
from zk0.data.findings import DataFinding, DataReport
from zk0.data.statistics_checks import check_statistics
from zk0.data.subject import Check, Subject, first_of, open_subject
from zk0.data.value_checks import (
    check_constant,
    check_joint_names,
    check_jumps,
    check_lengths,
    check_values,
)
from zk0.data.videos import Timeline, check_all_frames, check_some_frames
from zk0.errors import DatasetError, PolicyError, during
from zk0.learning.policy import base_config
from zk0.preflight.between import together
from zk0.preflight.inputs import check_base_statistics, check_dimensions, check_names
from zk0.preflight.records import Examined
from zk0.preflight.traits import traits_of
from zk0.preflight.verdicts import folder_of, recall, remember, verdict_key

POLICY_CHECKS = {"cameras": check_names, "policy dimensions": check_dimensions}
"""What a dataset must have for the policy, beside being whole."""
TIMES = ("files", "rows", "indices", "timestamps", "doubled frames")
"""Checks without which it is not known which frame belongs where."""


def report(config: RunConfig, *, every_frame: bool) -> DataReport:
    """Check every dataset of a config, and against the policy, one after the other in this process.

    Args:
        config: the config.
        every_frame: decode all of the videos, not a few frames within VIDEO_SAMPLE_S.

    Raises:
        PolicyError: the base cannot be read.
    """
    return together(config, [examine(config, dataset, every_frame=every_frame) for dataset in config.datasets])


def examine(
    config: RunConfig, dataset: DatasetConfig, *, every_frame: bool, fresh: bool = False, say: Say = lambda _: None
) -> Examined:
    """Check one dataset, and against the policy; what was found in the same files before is not looked for again.

    Args:
        config: the config.
        dataset: one of its datasets.
        every_frame: decode all of its videos, not a few frames within VIDEO_SAMPLE_S.
        fresh: look at everything again.
        say: told what is being done.

    Raises:
        PolicyError: the base cannot be read.
    """
    first = config.clients[0]
    try:
        with during(f"dataset {dataset.name!r}: metadata"):
            root = folder_of(dataset)
        before = None if dataset.name == first.name else _metadata(first)
        files = file_digests(root, say) if (root / "data").is_dir() else {}
        key = partial(verdict_key, config, dataset, root, files, before)
        found = None if fresh or not files else recall(key, every_frame=every_frame)
        if found is None:
            found = _look(config, dataset, before, every_frame=every_frame, say=say)
            remember(key, found.model_copy(update={"files": files}), every_frame=every_frame)
        say("policy")
        against = list(_against_policy(config, dataset))
    except DatasetError as error:
        return Examined(findings=[_from_error(dataset, "metadata", error)])
    return found.model_copy(update={"findings": [*found.findings, *against], "files": files})


def files_of(config: RunConfig) -> dict[str, dict[str, str]]:
    """Dataset -> path within it -> SHA-256, of those that are here.

    Raises:
        DatasetError: the metadata of one on the hub cannot be read.
    """
    roots = {dataset.name: folder_of(dataset) for dataset in config.datasets_here}
    return {name: file_digests(root) for name, root in roots.items() if (root / "data").is_dir()}


def _look(
    config: RunConfig, dataset: DatasetConfig, first: LeRobotDatasetMetadata | None, *, every_frame: bool, say: Say
) -> Examined:
    """What the dataset's own checks find.

    Raises:
        DatasetError: there is no such dataset, or its metadata cannot be read.
    """
    say("rows")
    with during(f"dataset {dataset.name!r}: metadata"):
        subject, files = open_subject(config, dataset, first)
    findings = [files]
    if any(client.name == dataset.name for client in config.clients):
        findings.append(check_episodes(subject))
    if not len(subject.rows):
        return Examined(findings=findings, frames=subject.meta.total_frames, traits=traits_of(subject))
    findings += [_done(check, subject) for check in ROW_CHECKS]
    broken = any(item.verdict == "error" and item.check in TIMES for item in findings)
    if subject.meta.camera_keys and not broken:
        say("frames")
        with during(f"dataset {dataset.name!r}: video frames"):
            findings.append(_pictures(subject, every_frame=every_frame))
    return Examined(findings=findings, frames=subject.meta.total_frames, traits=traits_of(subject))


def _metadata(dataset: DatasetConfig) -> LeRobotDatasetMetadata | None:
    """The metadata of the first client, None where they cannot be read: what is examined there says why."""
    try:
        return open_metadata(dataset)
    except DatasetError:
        return None


def refuse(found: DataReport) -> None:
    """Refuse what training would fail on, or learn wrongly from.

    Raises:
        DatasetError: names every dataset, check, value and remedy.
        PolicyError: the datasets are whole, but do not fit the policy.
    """
    if errors := found.of("error"):
        unfit = all(finding.check in POLICY_CHECKS for finding in errors)
        raise (PolicyError if unfit else DatasetError)("\n".join(map(str, errors)))


ROW_CHECKS: tuple[Check, ...] = (
    *(check_metadata, check_doubled, check_rows, check_indices, check_timestamps, check_video_times),
    *(check_lengths, check_values, check_joint_names, check_constant, check_jumps, check_statistics),
)


def _done(check: Check, subject: Subject) -> DataFinding:
    with during(f"dataset {subject.dataset.name!r}: {check.__name__.removeprefix('check_').replace('_', ' ')}"):
        return check(subject)


def _pictures(subject: Subject, *, every_frame: bool) -> DataFinding:
    """What is wrong with the pictures of a dataset whose rows and times can be trusted."""
    timeline = Timeline(subject.meta, _times(subject), subject.config.data.tolerance_s)
    found = check_all_frames(timeline) if every_frame else check_some_frames([timeline])[0]
    if found.lost:
        return subject.error("video frames", first_of(found.lost), RECORD_AGAIN)
    if found.flat:
        seen = first_of(found.flat)
        return subject.warning("video frames", seen, "see the camera and its cable; remove the episodes if it failed")
    return subject.ok("video frames", f"{found.seen} decoded")


def _times(subject: Subject) -> dict[int, NDArray[np.float64]]:
    """Episode -> time of each of its frames in seconds from its beginning, shape (frames,)."""
    episode, timestamp = subject.column("episode_index"), subject.column("timestamp")
    return {int(number): timestamp[episode == number] for number in np.unique(episode)}


def _against_policy(config: RunConfig, dataset: DatasetConfig) -> Iterator[DataFinding]:
    """Whether a dataset fits the policy.

    Raises:
        PolicyError: the base cannot be read.
    """
    meta = open_metadata(dataset)
    first = meta if dataset.name == config.clients[0].name else _metadata(config.clients[0])
    with during(f"policy {config.policy.path or config.policy.type}"):
        base: PreTrainedConfig = base_config(config, first or meta)
        if dataset.name == config.clients[0].name:
            try:
                check_base_statistics(config, base)
            except PolicyError as error:
                yield _from_error(dataset, "policy dimensions", error)
    for check, look in POLICY_CHECKS.items():
        try:
            with during(f"dataset {dataset.name!r}: {check}"):
                look(base, meta, dataset.rename_map, dataset.name)
        except PolicyError as error:
            yield _from_error(dataset, check, error)
        else:
            yield DataFinding(dataset=dataset.name, check=check, verdict="ok", seen=f"fit the policy ({base.type})")


def _from_error(dataset: DatasetConfig, check: str, error: Exception) -> DataFinding:
    """Our own messages name dataset, value and remedy already."""
    text = str(error).removeprefix(f"dataset {dataset.name!r}: ")
    seen, _, remedy = text.rpartition("; ")
    if not seen:
        seen, remedy = text, RECORD_AGAIN
    return DataFinding(dataset=dataset.name, check=check, verdict="error", seen=seen, remedy=remedy)
