"""Find what would make a LeRobot dataset fail, or silently mislead, in training: one small function for each fault."""

from itertools import pairwise
from pathlib import Path

import numpy as np
from lerobot.datasets.dataset_metadata import CODEBASE_VERSION
from lerobot.utils.constants import ACTION, OBS_STATE

from zk0.data.columns import INDEX_COLUMNS
from zk0.data.faults import RECORD_AGAIN, shown
from zk0.data.findings import DataFinding
from zk0.data.subject import Doubles, Subject
from zk0.data.versions import KNOWN, parsed
from zk0.data.videos import duration_s

DOUBLED_SHARE = 0.4
"""Of the frames in motion: a recorder that stores each frame twice gives 0.5; one that reads too early now, less."""
REPEATED_SHARE = 0.05
"""Of the frames in motion: from here on somebody should look at the recorder's loop."""
FIX = "`zk0 check-data CONFIG --fix-to FOLDER` writes a copy without them"


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


def check_metadata(subject: Subject) -> DataFinding:
    """What does no harm in training, but says that somebody's tool left the metadata behind."""
    meta = subject.meta
    version = parsed(meta.info.codebase_version)
    if version is not None and version > KNOWN:
        seen = (
            f"codebase_version = {meta.info.codebase_version!r} is newer than {CODEBASE_VERSION}, which LeRobot knows"
        )
        return subject.warning("metadata", seen, "use a newer zk0 if something looks odd")
    if (named := _split_end(meta.info.splits)) is not None and named != meta.total_episodes:
        seen = f"splits = {shown(meta.info.splits)} in meta/info.json, but there are {meta.total_episodes} episodes"
        return subject.warning("metadata", seen, "correct it; LeRobot does not look at it in training")
    return subject.ok("metadata", f"{meta.info.codebase_version}, {meta.total_episodes} episodes")


def _split_end(splits: object) -> int | None:
    """The episode at which the last of info.json's splits ends ("0:12"); None where none says so."""
    ranges = [str(value).partition(":")[2] for value in splits.values()] if isinstance(splits, dict) else []
    ends = [int(end) for end in ranges if end.isdecimal() and len(end) < 10]
    return max(ends, default=None)


def check_episodes(subject: Subject) -> DataFinding:
    """There is something to train on, and something to hold out."""
    total, held_out = subject.meta.total_episodes, subject.config.evaluation.holdout_episodes
    if total <= held_out:
        seen = f"{total} episodes, of which evaluation.holdout_episodes = {held_out} would be held out: none is left"
        return subject.error("episodes", seen, "record more, or lower that key")
    return subject.ok("episodes", f"{total - held_out} to train on, {held_out} held out")


def check_rows(subject: Subject) -> DataFinding:
    """As many rows as the metadata say, in all and in every episode: doubled rows load silently and are misindexed."""
    meta, rows = subject.meta, len(subject.rows)
    lengths = np.asarray(meta.episodes["length"])
    if not rows == meta.total_frames == lengths.sum():
        said = f"info.json says {meta.total_frames} frames and the episodes add up to {lengths.sum()}"
        seen = f"data/ has {rows} rows, but {said}: frames are doubled or lost"
        return subject.error("rows", seen, "see `doubled frames`, or record or convert the dataset again")
    episodes, counts = np.unique(subject.column("episode_index"), return_counts=True)
    found = dict(zip(episodes.astype(int).tolist(), counts.tolist(), strict=True))
    for episode, length in zip(meta.episodes["episode_index"], lengths.tolist(), strict=True):
        if found.get(episode, 0) != length:
            seen = f"episode {episode} has {found.get(episode, 0)} rows in data/, but length {length} in meta/episodes"
            return subject.error("rows", seen, RECORD_AGAIN)
    return subject.ok("rows", f"{rows} rows")


def check_indices(subject: Subject) -> DataFinding:
    """`index` counts all rows, `frame_index` those of an episode, and tasks and episodes are where metadata say."""
    index, episode, frame = (subject.column(name) for name in INDEX_COLUMNS[:3])
    remedy = "convert the dataset again: LeRobot looks frames up by these columns"
    if (wrong := np.flatnonzero(index != np.arange(len(index)))).size:
        seen = f"the index column does not count 0, 1, 2, ...: {index[wrong[0]]:.0f} in {subject.row(wrong[0])}"
        return subject.error("indices", seen, remedy)
    starts = np.flatnonzero(np.concatenate([[True], np.diff(episode) != 0]))
    ends = [*starts[1:].tolist(), len(index)]
    within = np.arange(len(index)) - np.repeat(starts, np.diff([*starts, len(index)]))
    if (wrong := np.flatnonzero(frame != within)).size:
        where = f"{subject.row(wrong[0])}, frame {within[wrong[0]]} of its episode"
        return subject.error("indices", f"frame_index is {frame[wrong[0]]:.0f} in {where}", remedy)
    borders = zip(subject.meta.episodes["dataset_from_index"], subject.meta.episodes["dataset_to_index"], strict=True)
    said = list(zip(*borders, strict=True))
    if [list(side) for side in said] != [starts.tolist(), ends]:
        seen = (
            f"the episodes begin at {shown(starts.tolist())} in data/, but at {shown(list(said[0]))} in meta/episodes"
        )
        return subject.error("indices", seen, remedy)
    task = subject.column("task_index")
    if (wrong := np.flatnonzero((task < 0) | (task >= subject.meta.total_tasks))).size:
        where = f"{subject.row(wrong[0])}, but meta/tasks.parquet has {subject.meta.total_tasks} tasks"
        return subject.error("indices", f"task_index is {task[wrong[0]]:.0f} in {where}", "restore meta/tasks.parquet")
    return subject.ok("indices", f"{len(starts)} episodes")


def check_timestamps(subject: Subject) -> DataFinding:
    """Every time step is 1/fps, within data.tolerance_s, and an episode begins at 0: videos are looked up by time."""
    tolerance, fps = subject.config.data.tolerance_s, subject.meta.fps
    timestamp, frame, same = subject.column("timestamp"), subject.column("frame_index"), subject.same_episode()
    if (wrong := np.flatnonzero(~np.isfinite(timestamp))).size:
        return subject.error(
            "timestamps", f"the time stamp of {subject.row(wrong[0])} is {timestamp[wrong[0]]}", RECORD_AGAIN
        )
    off = np.abs(np.diff(timestamp) - 1 / fps)[same]
    worst = float(off.max()) if len(off) else 0.0
    remedy = "correct fps or the time stamps, or raise that key if the recording is meant so"
    if worst > tolerance:
        row = int(np.flatnonzero(same)[off.argmax()]) + 1
        seen = (
            f"a time step is off 1/fps by {worst:.6f} s, more than data.tolerance_s = {tolerance} "
            f"({int((off > tolerance).sum())} such steps, the worst in {subject.row(row)}; fps = {fps})"
        )
        return subject.error("timestamps", seen, remedy)
    late = float(np.abs(timestamp[frame == 0]).max(initial=0.0))
    if late > tolerance:
        seen = (
            f"an episode begins at {late:.6f} s, not at 0 within data.tolerance_s = {tolerance}: its frames are shifted"
        )
        return subject.error("timestamps", seen, remedy)
    return subject.ok("timestamps", f"off 1/{fps} s by at most {worst:.1e} s")


def check_video_times(subject: Subject) -> DataFinding:
    """Every episode has pictures of its own in its video file: they overlap with no other's, nor pass its end."""
    meta, owner, times = subject.meta, subject.column("episode_index"), subject.column("timestamp")
    lasts = {int(episode): float(times[owner == episode].max()) for episode in np.unique(owner)}
    for key in meta.video_keys:
        files: dict[Path, list[int]] = {}
        for episode in range(meta.total_episodes):
            files.setdefault(Path(meta.root) / meta.get_video_file_path(episode, key), []).append(episode)
        starts = np.asarray(meta.episodes[f"videos/{key}/from_timestamp"], dtype=np.float64)
        for file, episodes in files.items():
            spans = {episode: (starts[episode], starts[episode] + lasts.get(episode, 0.0)) for episode in episodes}
            if (seen := _video_fault(file, spans, 1 / meta.fps)) is not None:
                remedy = "correct meta/episodes, or convert the dataset again"
                return subject.error("video times", f"{key}: {seen}", remedy)
    return subject.ok("video times", f"{len(meta.video_keys)} cameras")


def _video_fault(file: Path, spans: dict[int, tuple[float, float]], step: float) -> str | None:
    """What is wrong with where the episodes' first and last frames are in a video, in seconds."""
    order = sorted(spans, key=lambda episode: spans[episode])
    for one, after in pairwise(order):
        if spans[one][1] > spans[after][0] - step / 2:
            times = f"to {spans[one][1]:.3f} s, and from {spans[after][0]:.3f} s (from_timestamp)"
            return f"episodes {one} and {after} overlap in {file}: {times}"
    end = duration_s(file)
    if end is not None and spans[order[-1]][1] > end + step:
        return f"episode {order[-1]} ends at {spans[order[-1]][1]:.3f} s of {file}, which lasts {end:.3f} s"
    return None


def check_doubled(subject: Subject) -> DataFinding:
    """No frame is there twice, as a row of the same number or time, or as a recorder's repetition in motion."""
    doubled = doubled_rows(subject)
    if count := int(doubled.sum()):
        seen = f"{count} of {len(subject.rows)} rows have the episode and number, or time, of an earlier row"
        seen += f", first {subject.row(int(doubled.argmax()))}"
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
