"""All checks of all datasets of a config, and against the policy."""

from collections.abc import Iterator

import numpy as np
from lerobot.configs.policies import PreTrainedConfig
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
from zk0.data.videos import Pictures, Timeline, check_all_frames, check_some_frames
from zk0.errors import DatasetError, PolicyError, during
from zk0.learning.policy import base_config
from zk0.preflight import between
from zk0.preflight.inputs import check_base_statistics, check_dimensions, check_names
from zk0.preflight.traits import traits_of

POLICY_CHECKS = {"cameras": check_names, "policy dimensions": check_dimensions}
"""What a dataset must have for the policy, beside being whole."""
TIMES = ("files", "rows", "indices", "timestamps", "doubled frames")
"""Checks without which it is not known which frame belongs where."""


def report(config: RunConfig, *, every_frame: bool) -> DataReport:
    """Check every dataset of a config, and against the policy.

    Args:
        config: the config.
        every_frame: decode all of the videos, not a few frames within VIDEO_SAMPLE_S.

    Raises:
        PolicyError: the base cannot be read.
    """
    findings: list[DataFinding] = []
    subjects: list[Subject] = []
    clients = {client.name for client in config.clients}
    for dataset in [*config.clients, *config.evaluation.datasets]:
        try:
            with during(f"dataset {dataset.name!r}: metadata"):
                subject, files = open_subject(config, dataset, subjects[0].meta if subjects else None)
        except DatasetError as error:
            findings.append(_from_error(dataset, "metadata", error))
            continue
        subjects.append(subject)
        findings += [files] + ([check_episodes(subject)] if dataset.name in clients else [])
        if len(subject.rows):
            findings += [_done(check, subject) for check in ROW_CHECKS]
    with during(f"datasets {', '.join(repr(item.dataset.name) for item in subjects)}: video frames"):
        findings += _videos(subjects, findings, every_frame=every_frame)
    if subjects:
        findings += _against_policy(config, subjects)
        findings += between.compare(config, {item.dataset.name: traits_of(item) for item in subjects})
    order = [dataset.name for dataset in [*config.clients, *config.evaluation.datasets]]
    findings.sort(key=lambda finding: order.index(finding.dataset))
    return DataReport(findings=findings, frames={item.dataset.name: item.meta.total_frames for item in subjects})


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


def _videos(subjects: list[Subject], findings: list[DataFinding], *, every_frame: bool) -> list[DataFinding]:
    """The pictures of all datasets whose rows and times can be trusted."""
    broken = {item.dataset for item in findings if item.verdict == "error" and item.check in TIMES}
    whole = [item for item in subjects if len(item.rows) and item.meta.camera_keys and item.dataset.name not in broken]
    timelines = [Timeline(item.meta, _times(item), item.config.data.tolerance_s) for item in whole]
    found = [check_all_frames(item) for item in timelines] if every_frame else check_some_frames(timelines)
    return [_pictures(subject, pictures) for subject, pictures in zip(whole, found, strict=True)]


def _pictures(subject: Subject, found: Pictures) -> DataFinding:
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


def _against_policy(config: RunConfig, subjects: list[Subject]) -> Iterator[DataFinding]:
    with during(f"policy {config.policy.path or config.policy.type}"):
        base: PreTrainedConfig = base_config(config, subjects[0].meta)
        try:
            check_base_statistics(config, base)
        except PolicyError as error:
            yield _from_error(subjects[0].dataset, "policy dimensions", error)
    for subject in subjects:
        for check, look in POLICY_CHECKS.items():
            try:
                with during(f"dataset {subject.dataset.name!r}: {check}"):
                    look(base, subject.meta, subject.dataset.rename_map, subject.dataset.name)
            except PolicyError as error:
                yield _from_error(subject.dataset, check, error)
            else:
                yield subject.ok(check, f"fit the policy ({base.type})")


def _from_error(dataset: DatasetConfig, check: str, error: Exception) -> DataFinding:
    """Our own messages name dataset, value and remedy already."""
    text = str(error).removeprefix(f"dataset {dataset.name!r}: ")
    seen, _, remedy = text.rpartition("; ")
    if not seen:
        seen, remedy = text, RECORD_AGAIN
    return DataFinding(dataset=dataset.name, check=check, verdict="error", seen=seen, remedy=remedy)
