"""Find what would make a LeRobot dataset fail, or silently mislead, in training: one small function for each fault."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from lerobot.configs.policies import PreTrainedConfig
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.utils.constants import ACTION, OBS_STATE
from numpy.typing import NDArray

from zk0 import data, policy
from zk0.config import DatasetConfig, RunConfig
from zk0.errors import DatasetError, PolicyError
from zk0.records import DataFinding, DataReport
from zk0.video_checks import Pictures, Timeline, check_all_frames, check_some_frames

CONSTANT_RANGE = 1e-3
"""Joint units: a joint that moves less is constant. One step of an SO-101's encoder is more, even in rad (1.5e-3)."""
JUMP_RANGE = 0.5
"""Of the joint's whole range, in one frame: no arm goes from end to end in two frames; encoders that wrap do."""
JUMP_FACTOR = 10.0
"""Times the joint's usual step (the median while it moves): keeps the noise of a still joint out."""
JUMP_SHARE = 0.01
"""Of the frames: more jumps of the measured state than this are no glitches, but a wrong calibration or unit."""
DOUBLED_SHARE = 0.4
"""Of the frames in motion: a recorder that stores each frame twice gives 0.5; one that reads too early now, less."""
REPEATED_SHARE = 0.05
"""Of the frames in motion: from here on somebody should look at the recorder's loop."""
STALE_MEAN = 1e-3
"""Of the joint's range: recorded means are off by up to 1e-5 in LeRobot's own recordings; of edited rows, by more."""

POLICY_CHECKS = {"cameras": policy.check_names, "policy dimensions": policy.check_dimensions}
"""What a dataset must have for the policy, beside being whole."""

RECORD_AGAIN = "restore the file, or record or convert the dataset again"
FIX = "`zk0 check-data CONFIG --fix-to FOLDER` writes a copy without them"
TIMES = ("files", "rows", "indices", "timestamps", "doubled frames")
"""Checks without which it is not known which frame belongs where."""
INDEX_COLUMNS = ("index", "episode_index", "frame_index", "timestamp", "task_index")

Doubles = NDArray[np.bool_]
"""One truth value per row."""


@dataclass(frozen=True)
class Subject:
    """A dataset under examination."""

    dataset: DatasetConfig
    meta: LeRobotDatasetMetadata
    config: RunConfig
    first_names: list[str] | None = None
    """The joints of the first client's action, in its order."""
    rows: pa.Table = field(default_factory=lambda: pa.table({}))
    """All rows of `data/`, without the columns that hold images; empty where they cannot be read or are not fetched."""

    def ok(self, check: str, seen: str) -> DataFinding:
        """All is well."""
        return DataFinding(dataset=self.dataset.name, check=check, verdict="ok", seen=seen)

    def warning(self, check: str, seen: str, remedy: str) -> DataFinding:
        """A person should look at it."""
        return DataFinding(dataset=self.dataset.name, check=check, verdict="warning", seen=seen, remedy=remedy)

    def error(self, check: str, seen: str, remedy: str) -> DataFinding:
        """Training would fail or be wrong."""
        return DataFinding(dataset=self.dataset.name, check=check, verdict="error", seen=seen, remedy=remedy)

    def column(self, name: str) -> NDArray[np.float64]:
        """An index column, shape (rows,); whole numbers are exact below 2**53."""
        return np.asarray(self.rows[name].to_numpy(), dtype=np.float64).reshape(-1)

    def vectors(self, feature: str) -> NDArray[np.float64] | None:
        """A feature as (rows, dimensions); None where there is none, or its rows differ in length."""
        if feature not in self.rows.column_names or feature not in self.meta.features:
            return None
        column = self.rows[feature]
        if not pa.types.is_list(column.type) and not pa.types.is_fixed_size_list(column.type):
            return np.asarray(column.to_numpy(), dtype=np.float64).reshape(-1, 1)
        lengths = pc.unique(pc.list_value_length(column)).to_pylist()
        if len(lengths) != 1 or not lengths[0]:
            return None
        return np.asarray(pc.list_flatten(column).to_numpy(), dtype=np.float64).reshape(-1, lengths[0])

    def same_episode(self) -> Doubles:
        """Shape (rows - 1,): whether a row and the one after it are of one episode."""
        return np.asarray(np.diff(self.column("episode_index")) == 0)


Check = Callable[[Subject], DataFinding]


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
            subject, files = open_subject(config, dataset, subjects[0].meta if subjects else None)
        except DatasetError as error:
            findings.append(_from_error(dataset, "metadata", error))
            continue
        subjects.append(subject)
        findings += [files] + ([_episodes(subject)] if dataset.name in clients else [])
        if len(subject.rows):
            findings += [check(subject) for check in ROW_CHECKS]
    findings += _videos(subjects, findings, every_frame=every_frame)
    if subjects:
        findings += _against_policy(config, subjects)
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


def doubled_rows(subject: Subject) -> Doubles:
    """Rows of a frame that an earlier row stands for already: the same episode, and the same number or time."""
    episode = subject.column("episode_index")
    doubled = np.zeros(len(episode), dtype=bool)
    for name in ("frame_index", "timestamp"):
        _, first = np.unique(np.stack([episode, subject.column(name)], axis=1), axis=0, return_index=True)
        once = np.zeros(len(episode), dtype=bool)
        once[first] = True
        doubled |= ~once
    return doubled


def rows_to_drop(subject: Subject) -> Doubles:
    """Doubled rows; where there are none, the repetitions of a recorder that stored every frame twice."""
    doubled = doubled_rows(subject)
    alone, share = repeated_rows(subject)
    return alone if not doubled.any() and share >= DOUBLED_SHARE else doubled


def repeated_rows(subject: Subject) -> tuple[Doubles, float]:
    """Rows in which state and action are bit for bit those of the row before, alone in the midst of motion.

    Rows of an arm at rest, three and more that are the same, are left out: they repeat by right.

    Returns:
        The rows, and their share of those in motion.
    """
    vectors = [values for key in (OBS_STATE, ACTION) if (values := subject.vectors(key)) is not None]
    if not vectors or len(vectors[0]) < 2:
        return np.zeros(len(subject.rows), dtype=bool), 0.0
    joined = np.concatenate(vectors, axis=1)
    same = np.concatenate([[False], (np.diff(joined, axis=0) == 0).all(axis=1) & subject.same_episode(), [False]])
    before, here, after = np.concatenate([[False], same[:-2]]), same[:-1], same[1:]
    alone = here & ~before & ~after
    rest = (here & (before | after)) | (after & np.concatenate([same[2:], [False]]))
    moving = int((~rest).sum())
    return alone, float(alone.sum() / moving) if moving else 0.0


def joint_names(meta: LeRobotDatasetMetadata, feature: str) -> list[str] | None:
    """The names of a feature's dimensions, in order; None where the dataset gives none."""
    names = meta.features.get(feature, {}).get("names")
    if isinstance(names, dict):  # older recordings: {"motors": [...]}
        names = [name for group in names.values() for name in (group if isinstance(group, list) else [group])]
    return [str(name) for name in names] if names else None


def open_subject(
    config: RunConfig, dataset: DatasetConfig, first: LeRobotDatasetMetadata | None = None
) -> tuple[Subject, DataFinding]:
    """Read a dataset's metadata and rows; every file that the episodes name is there and can be read.

    Raises:
        DatasetError: there is no such dataset, or its metadata cannot be read.
    """
    meta = data.open_metadata(dataset)
    subject = Subject(dataset, meta, config, joint_names(first, ACTION) if first else None)
    folder = Path(meta.root)
    if dataset.root is None and not (folder / "data").is_dir():
        why = "the recordings are not fetched from the hub yet: only the metadata was checked"
        return subject, subject.warning("files", why, "`zk0 check-data CONFIG` fetches and checks them")
    names = {meta.get_data_file_path(index) for index in range(meta.total_episodes)}
    names |= {meta.get_video_file_path(i, key) for i in range(meta.total_episodes) for key in meta.video_keys}
    lacking = [folder / name for name in sorted(names) if not _is_whole(folder / name)]
    if lacking:
        seen = _first(lacking, "{} is missing or empty")
        return subject, subject.error("files", seen, RECORD_AGAIN)
    try:
        rows = pa.concat_tables([_read(file, meta) for file in sorted((folder / "data").rglob("*.parquet"))])
    except (OSError, KeyError, pa.ArrowException) as error:
        seen = f"a data file cannot be read ({(str(error).splitlines() or [''])[0]})"
        return subject, subject.error("files", seen, RECORD_AGAIN)
    return replace(subject, rows=rows), subject.ok("files", f"{len(names)} files")


def _first(faults: Sequence[object], text: str = "{}") -> str:
    """The first of many faults, and how many more there are."""
    return text.format(faults[0]) + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else "")


def _is_whole(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0


def _read(file: Path, meta: LeRobotDatasetMetadata) -> pa.Table:
    there = pq.read_schema(file).names
    if lacking := [name for name in INDEX_COLUMNS if name not in there]:
        raise KeyError(f"{file} has no column {lacking[0]!r}")
    return pq.read_table(file, columns=[name for name in there if name not in meta.image_keys])


def _episodes(subject: Subject) -> DataFinding:
    """There is something to train on, and something to hold out."""
    total, held_out = subject.meta.total_episodes, subject.config.evaluation.holdout_episodes
    if total <= held_out:
        seen = f"{total} episodes, of which evaluation.holdout_episodes = {held_out} would be held out: none is left"
        return subject.error("episodes", seen, "record more, or lower that key")
    return subject.ok("episodes", f"{total - held_out} to train on, {held_out} held out")


def _rows(subject: Subject) -> DataFinding:
    """As many rows as the metadata say, in all and in every episode: doubled rows load silently and are misindexed."""
    meta, rows = subject.meta, len(subject.rows)
    lengths = np.asarray(meta.episodes["length"])
    if not rows == meta.total_frames == lengths.sum():
        seen = (
            f"{rows} rows, but info.json says {meta.total_frames} frames and the episodes add up to {lengths.sum()}: "
            "frames are doubled or lost"
        )
        return subject.error("rows", seen, "see `doubled frames`, or record or convert the dataset again")
    episodes, counts = np.unique(subject.column("episode_index"), return_counts=True)
    found = dict(zip(episodes.astype(int).tolist(), counts.tolist(), strict=True))
    for episode, length in zip(meta.episodes["episode_index"], lengths.tolist(), strict=True):
        if found.get(episode, 0) != length:
            seen = f"episode {episode} has {found.get(episode, 0)} rows, its metadata say {length}"
            return subject.error("rows", seen, RECORD_AGAIN)
    return subject.ok("rows", f"{rows} rows")


def _indices(subject: Subject) -> DataFinding:
    """`index` counts all rows, `frame_index` those of an episode, and tasks and episodes are where metadata say."""
    index, episode, frame = (subject.column(name) for name in INDEX_COLUMNS[:3])
    remedy = "convert the dataset again: LeRobot looks frames up by these columns"
    if (wrong := np.flatnonzero(index != np.arange(len(index)))).size:
        seen = f"the index column does not count 0, 1, 2, ...: {index[wrong[0]]:.0f} in row {wrong[0]}"
        return subject.error("indices", seen, remedy)
    starts = np.flatnonzero(np.concatenate([[True], np.diff(episode) != 0]))
    within = np.arange(len(index)) - np.repeat(starts, np.diff([*starts, len(index)]))
    if (wrong := np.flatnonzero(frame != within)).size:
        seen = f"frame_index is {frame[wrong[0]]:.0f} in row {wrong[0]}, frame {within[wrong[0]]} of its episode"
        return subject.error("indices", seen, remedy)
    ends = [*starts[1:].tolist(), len(index)]
    meta = subject.meta.episodes
    if [*meta["dataset_from_index"]] != starts.tolist() or [*meta["dataset_to_index"]] != ends:
        return subject.error("indices", "meta/episodes puts the episodes' borders elsewhere than the rows do", remedy)
    task = subject.column("task_index")
    if task.min() < 0 or task.max() >= subject.meta.total_tasks:
        seen = f"task_index {task.max():.0f}, but meta/tasks.parquet has {subject.meta.total_tasks} tasks"
        return subject.error("indices", seen, "restore meta/tasks.parquet")
    return subject.ok("indices", f"{len(starts)} episodes")


def _timestamps(subject: Subject) -> DataFinding:
    """Every time step is 1/fps, within data.tolerance_s, and an episode begins at 0: videos are looked up by time."""
    tolerance, fps = subject.config.data.tolerance_s, subject.meta.fps
    timestamp, frame, same = subject.column("timestamp"), subject.column("frame_index"), subject.same_episode()
    off = np.abs(np.diff(timestamp) - 1 / fps)[same]
    worst = float(off.max()) if len(off) else 0.0
    remedy = "correct fps or the time stamps, or raise that key if the recording is meant so"
    if worst > tolerance:
        row = int(np.flatnonzero(same)[off.argmax()]) + 1
        seen = (
            f"a time step is off 1/fps by {worst:.6f} s, more than data.tolerance_s = {tolerance} "
            f"({int((off > tolerance).sum())} such steps, the worst in row {row}; fps = {fps})"
        )
        return subject.error("timestamps", seen, remedy)
    late = float(np.abs(timestamp[frame == 0]).max(initial=0.0))
    if late > tolerance:
        seen = (
            f"an episode begins at {late:.6f} s, not at 0 within data.tolerance_s = {tolerance}: its frames are shifted"
        )
        return subject.error("timestamps", seen, remedy)
    return subject.ok("timestamps", f"off 1/{fps} s by at most {worst:.1e} s")


def _doubled(subject: Subject) -> DataFinding:
    """No frame is there twice, as a row of the same number or time, or as a recorder's repetition in motion."""
    count = int(doubled_rows(subject).sum())
    if count:
        seen = f"{count} of {len(subject.rows)} rows have the episode and number, or time, of an earlier row"
        return subject.error("doubled frames", seen, FIX)
    alone, share = repeated_rows(subject)
    seen = (
        f"state and action of {int(alone.sum())} frames are exactly those before, {share:.0%} of the frames in motion"
    )
    if share >= DOUBLED_SHARE:
        return subject.error("doubled frames", f"{seen}: each was stored twice", FIX)
    if share >= REPEATED_SHARE:
        return subject.warning("doubled frames", seen, "see that the recorder's loop is not faster than the robot's")
    return subject.ok("doubled frames", f"{int(alone.sum())} repeated in motion")


def _dimensions(subject: Subject) -> DataFinding:
    """State and action have as many numbers, and names, in every row as info.json says."""
    if ACTION not in subject.meta.features:
        return subject.error("dimensions", f"has no {ACTION!r} feature: it cannot teach a policy", RECORD_AGAIN)
    sizes = []
    for key in (OBS_STATE, ACTION):
        if key not in subject.meta.features:
            continue
        wanted, values = int(subject.meta.features[key]["shape"][0]), subject.vectors(key)
        if values is None:
            seen = f"the rows of {key!r} are missing, or differ in length"
            return subject.error("dimensions", seen, RECORD_AGAIN)
        names = joint_names(subject.meta, key)
        if not values.shape[1] == wanted == len(names or range(wanted)):
            seen = f"{key!r} has {values.shape[1]} numbers in a row, info.json says {wanted}"
            seen += f" and names {len(names)}" if names else ""
            return subject.error("dimensions", seen, "correct the feature's shape and names in meta/info.json")
        sizes.append(f"{key} {wanted}")
    return subject.ok("dimensions", ", ".join(sizes))


def _values(subject: Subject) -> DataFinding:
    """Every number of state and action is one."""
    for key in (OBS_STATE, ACTION):
        values = subject.vectors(key)
        if values is not None and (wrong := np.flatnonzero(~np.isfinite(values).all(axis=1))).size:
            seen = f"{key!r} holds NaN or infinity in {wrong.size} rows, first in row {wrong[0]}"
            return subject.error("values", seen, "remove those episodes (`lerobot-edit-dataset`), or record them again")
    return subject.ok("values", "all finite")


def _names(subject: Subject) -> DataFinding:
    """The joints have the first client's names, in its order: averaged policies would mix joints up otherwise."""
    names, first = joint_names(subject.meta, ACTION), subject.first_names
    if names is None:
        remedy = f"name the joints in meta/info.json (features.{ACTION}.names)"
        return subject.warning("joint names", "the joints have no names: their order cannot be compared", remedy)
    if first is None or names == first:
        return subject.ok("joint names", ", ".join(names))
    if sorted(names) == sorted(first):
        seen = f"the order is {', '.join(names)}; the first client's is {', '.join(first)}"
        return subject.error("joint names", seen, "convert the dataset to the first client's order")
    seen = f"{', '.join(names)}; the first client has {', '.join(first)}"
    return subject.warning("joint names", seen, "see that the joints are the same ones, in the same order")


def _constant(subject: Subject) -> DataFinding:
    """Joints move: one that never does may be unused; where none does, the arm was not recorded."""
    still: list[str] = []
    for key in (OBS_STATE, ACTION):
        values = subject.vectors(key)
        if values is None:
            continue
        constant = np.ptp(values, axis=0) < CONSTANT_RANGE
        if constant.all():
            seen = f"no dimension of {key!r} moves by {CONSTANT_RANGE} or more"
            return subject.error("constant joints", seen, "see that the arm was connected, and record again")
        names = _labels(subject, key, len(constant))
        still += [f"{name} ({key})" for name, is_constant in zip(names, constant, strict=True) if is_constant]
    if still:
        remedy = "fine for an unused joint; if not, see its cable and calibration, and record again"
        return subject.warning("constant joints", f"never move: {', '.join(still)}", remedy)
    return subject.ok("constant joints", "all move")


def _jumps(subject: Subject) -> DataFinding:
    """No joint jumps: encoders that wrap, wrong units, lost samples. Commands may step; measured states may not."""
    counts = {OBS_STATE: 0, ACTION: 0}
    first = ""
    for key in tuple(counts):
        values = subject.vectors(key)
        if values is None or len(values) < 2:
            continue
        steps = np.abs(np.diff(values, axis=0)) * subject.same_episode()[:, None]
        usual = np.array([np.median(joint[joint > 0]) if (joint > 0).any() else 0.0 for joint in steps.T])
        jumps = (steps > JUMP_RANGE * np.ptp(values, axis=0)) & (steps > JUMP_FACTOR * usual) & (steps > 0)
        counts[key] = int(jumps.any(axis=1).sum())
        if counts[key] and not first:
            row, joint = (int(i) for i in np.argwhere(jumps)[0])
            first = (
                f"first {_labels(subject, key, len(usual))[joint]} ({key}) by {steps[row, joint]:.4g} in row {row + 1}"
            )
    if not any(counts.values()):
        return subject.ok("jumps", "none")
    seen = f"{counts[OBS_STATE]} of the state and {counts[ACTION]} of the action, {first}"
    if counts[OBS_STATE] > JUMP_SHARE * len(subject.rows):
        return subject.error("jumps", seen, "calibrate the arm away from its encoders' ends, and record again")
    return subject.warning("jumps", seen, "look at these frames (`lerobot-dataset-viz`); remove the episodes if wrong")


def _labels(subject: Subject, feature: str, size: int) -> list[str]:
    """The joints' names, or their numbers where there are not as many names."""
    names = joint_names(subject.meta, feature) or []
    return names if len(names) == size else [str(number) for number in range(size)]


def _statistics(subject: Subject) -> DataFinding:
    """Every episode has its statistics, and they are those of its rows."""
    recorded = data.recorded_statistics(subject.meta)
    wrong = [
        f"episode {episode} lacks {missing}"
        for episode, stats in sorted(recorded.items())
        for missing in data.missing_statistics(subject.meta, stats)
    ] or _stale(subject, recorded)
    if not wrong:
        return subject.ok("statistics", f"{len(recorded)} episodes")
    seen, remedy = _first(wrong), "convert the dataset again with LeRobot's own tools"
    if subject.config.data.normalization == "base":
        return subject.warning("statistics", f"{seen}; data.normalization = 'base' does not use them", remedy)
    return subject.error("statistics", seen, remedy)


def _stale(subject: Subject, recorded: dict[int, data.Stats]) -> list[str]:
    """Where recorded means are not those of the rows."""
    episode, found = subject.column("episode_index"), []
    for key in (OBS_STATE, ACTION):
        values = subject.vectors(key)
        if values is None or not np.isfinite(values).all():
            continue
        allowed = STALE_MEAN * np.maximum(np.ptp(values, axis=0), CONSTANT_RANGE)
        for number, stats in sorted(recorded.items()):
            mine = values[episode == number]
            if len(mine) and (
                stats[key]["mean"].shape != mine.shape[1:]
                or (np.abs(mine.mean(axis=0) - stats[key]["mean"]) > allowed).any()
            ):
                found.append(f"the mean of {key!r} in episode {number} is not that of its rows")
    return found


ROW_CHECKS: tuple[Check, ...] = (
    *(_doubled, _rows, _indices, _timestamps),
    *(_dimensions, _values, _names, _constant, _jumps, _statistics),
)


def _videos(subjects: list[Subject], findings: list[DataFinding], *, every_frame: bool) -> list[DataFinding]:
    """The pictures of all datasets whose rows and times can be trusted."""
    broken = {item.dataset for item in findings if item.verdict == "error" and item.check in TIMES}
    whole = [item for item in subjects if len(item.rows) and item.meta.camera_keys and item.dataset.name not in broken]
    timelines = [Timeline(item.meta, _times(item), item.config.data.tolerance_s) for item in whole]
    found = [check_all_frames(item) for item in timelines] if every_frame else check_some_frames(timelines)
    return [_pictures(subject, pictures) for subject, pictures in zip(whole, found, strict=True)]


def _pictures(subject: Subject, found: Pictures) -> DataFinding:
    if found.lost:
        return subject.error("video frames", _first(found.lost), RECORD_AGAIN)
    if found.flat:
        seen = _first(found.flat)
        return subject.warning("video frames", seen, "see the camera and its cable; remove the episodes if it failed")
    return subject.ok("video frames", f"{found.seen} decoded")


def _times(subject: Subject) -> dict[int, NDArray[np.float64]]:
    """Episode -> time of each of its frames in seconds from its beginning, shape (frames,)."""
    episode, timestamp = subject.column("episode_index"), subject.column("timestamp")
    return {int(number): timestamp[episode == number] for number in np.unique(episode)}


def _against_policy(config: RunConfig, subjects: list[Subject]) -> Iterator[DataFinding]:
    base: PreTrainedConfig = policy.base_config(config, subjects[0].meta)
    for subject in subjects:
        for check, look in POLICY_CHECKS.items():
            try:
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
