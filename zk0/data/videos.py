"""Find camera frames that training would ask for and cannot have: decode all of them, or a few in bounded time."""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.error import FFmpegError
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.video_utils import FrameTimestampError, decode_video_frames_pyav
from numpy.typing import NDArray

from zk0.data.pictures import first_fault, pictures
from zk0.errors import first_line

VIDEO_SAMPLE_S = 1.0
"""Seconds that the sampled frames of all datasets together may take at the start of a run."""
SAMPLED_PLACES = (-1, 0, 0.5)
"""Of an episode's frames, in the order of sampling: the last is the one that a file cut short lacks."""
FLAT_SPREAD = 1.0
"""Grey levels of 255, standard deviation over a frame: a lens cap or a dead camera; any scene has more."""


@dataclass(frozen=True)
class Timeline:
    """When each frame of a dataset is to be had."""

    meta: LeRobotDatasetMetadata
    times: dict[int, NDArray[np.float64]]
    """Episode -> seconds from its beginning, shape (frames,)."""
    tolerance_s: float
    """`data.tolerance_s`."""

    def place(self, camera: str, episode: int) -> tuple[Path, NDArray[np.float64]]:
        """The video file of an episode, and its frames' times in it, in seconds."""
        start = float(self.meta.episodes[episode][f"videos/{camera}/from_timestamp"])
        return Path(self.meta.root) / self.meta.get_video_file_path(episode, camera), start + self.times[episode]


@dataclass(frozen=True)
class Pictures:
    """What was found."""

    lost: list[str]
    """Frames that cannot be had; one line for each episode and camera."""
    flat: list[str]
    """Frames of one single grey."""
    seen: int
    """Frames that were decoded."""


def video_fault(file: Path) -> str | None:
    """Why a video cannot be opened, by its head alone; None where it can, and for other files."""
    if file.suffix == ".parquet":
        return None
    try:
        with av.open(str(file)) as container:
            streams = len(container.streams.video)
    except (FFmpegError, ValueError) as error:
        return f"{file} cannot be opened as a video: it is cut short or damaged ({first_line(error)[:100]})"
    return None if streams else f"{file} has no video stream"


def duration_s(file: Path) -> float | None:
    """How long a video says that it lasts, in seconds; None where it does not say."""
    try:
        with av.open(str(file)) as container:
            duration = container.duration
    except (FFmpegError, ValueError):
        return None
    return duration / av.time_base if duration else None


def check_all_frames(timeline: Timeline) -> Pictures:
    """Decode every frame of every camera once, in the order of the files."""
    parts = [_check_video(timeline, camera) for camera in timeline.meta.video_keys]
    parts += [_check_images(timeline, camera) for camera in timeline.meta.image_keys]
    return Pictures(
        lost=[line for part in parts for line in part.lost],
        flat=[line for part in parts for line in part.flat],
        seen=sum(part.seen for part in parts),
    )


def check_some_frames(timelines: list[Timeline]) -> list[Pictures]:
    """Decode the last, first and middle frames of a few episodes of every camera, for VIDEO_SAMPLE_S in all.

    Every dataset has its turn before any has a second one.
    """
    deadline = time.monotonic() + VIDEO_SAMPLE_S
    found = [Pictures([], [], 0) for _ in timelines]
    seen = [0] * len(timelines)
    for turn in itertools.zip_longest(*(_samples(timeline) for timeline in timelines)):
        for number, sample in enumerate(turn):
            if time.monotonic() > deadline:
                break
            if sample is not None:
                seen[number] += 1
                found[number].lost.extend(sample())
    return [Pictures(part.lost, part.flat, count) for part, count in zip(found, seen, strict=True)]


def _samples(timeline: Timeline) -> Iterator[Callable[[], list[str]]]:
    """What looks at one frame and says what is wrong with it, the most telling frames first."""
    for camera in timeline.meta.image_keys:
        for file in sorted((Path(timeline.meta.root) / "data").glob("*/*.parquet")):
            yield partial(first_fault, file, camera)
    episodes = sorted(timeline.times)
    chosen = [episodes[-1], episodes[0], episodes[len(episodes) // 2]]
    cameras = timeline.meta.video_keys
    ends = {timeline.place(camera, episode)[0]: episode for camera in cameras for episode in episodes}
    yield from (partial(_try_all, timeline, camera, episode) for episode in chosen for camera in cameras)
    for place in SAMPLED_PLACES:
        for episode in dict.fromkeys((*chosen, *(ends.values() if place < 0 else ()))):
            for camera in cameras:
                yield partial(_try, timeline, camera, episode, place)


def _try_all(timeline: Timeline, camera: str, episode: int) -> list[str]:
    """Whether an episode's frames are all there, by the times of its packets; one that seems lacking is looked for.

    Packets need no decoding. A video of another rate than the rows has a frame for some of their times by chance.
    """
    file, times = timeline.place(camera, episode)
    try:
        had = _packet_times(file, float(times[0]), float(times[-1]))
    except (FFmpegError, IndexError, ValueError):
        return []  # whoever decodes it says why
    lacking = times[_distance(times, had) > timeline.tolerance_s]
    return _frame(timeline, camera, episode, float(lacking[0])) if lacking.size else []


def _packet_times(file: Path, first: float, last: float) -> NDArray[np.float64]:
    """Times of a video's packets from one second to another, sorted."""
    found: list[float] = []
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        base = float(stream.time_base or 0)
        container.seek(int(first / base) if base else 0, stream=stream)  # to the key frame before
        for packet in container.demux(stream):
            if packet.pts is not None:
                found.append(packet.pts * base)
            if packet.dts is not None and packet.dts * base > last:
                break
    return np.sort(np.asarray(found))


def _try(timeline: Timeline, camera: str, episode: int, place: float) -> list[str]:
    _, times = timeline.place(camera, episode)
    return _frame(timeline, camera, episode, float(times[-1] if place < 0 else times[int(place * (len(times) - 1))]))


def _frame(timeline: Timeline, camera: str, episode: int, wanted: float) -> list[str]:
    """What is wrong with the frame at a time of a video, as LeRobot decodes it."""
    file, _ = timeline.place(camera, episode)
    try:
        decode_video_frames_pyav(
            file,
            [wanted],
            timeline.tolerance_s,
            return_uint8=True,
            is_depth=camera in timeline.meta.depth_keys,
        )
    except (FFmpegError, FrameTimestampError, IndexError, ValueError, RuntimeError) as error:
        why = first_line(error)[:100]
        return [f"{camera}, episode {episode}: no frame at {wanted:.3f} s of {file} ({why})"]
    return []


def _check_video(timeline: Timeline, camera: str) -> Pictures:
    files: dict[Path, list[int]] = {}
    for episode in sorted(timeline.times):
        files.setdefault(timeline.place(camera, episode)[0], []).append(episode)
    lost, flat, seen = [], [], 0
    for file, episodes in files.items():
        had, grey, why = _decode(file, depth=camera in timeline.meta.depth_keys)
        seen += len(had)
        for episode in episodes:
            wanted = timeline.place(camera, episode)[1]
            here = f"{camera}, episode {episode}:"
            if (missing := wanted[_distance(wanted, had) > timeline.tolerance_s]).size:
                first = f"first at {missing[0]:.3f} s of {file}" + (f" ({why})" if why else "")
                lost.append(f"{here} {missing.size} of {wanted.size} frames cannot be decoded, {first}")
            if dull := int((_distance(wanted, grey) <= timeline.tolerance_s).sum()):
                flat.append(f"{here} {dull} of {wanted.size} frames are of one single grey")
    return Pictures(lost, flat, seen)


def _decode(file: Path, *, depth: bool) -> tuple[NDArray[np.float64], NDArray[np.float64], str]:
    """Decode a whole video.

    Returns:
        Times of the frames that could be decoded, and of those that are flat, in seconds; why others could not.
    """
    times: list[float] = []
    flat: list[float] = []
    why = ""
    try:
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            for packet in container.demux(stream):
                try:
                    frames = cast(list[av.VideoFrame], packet.decode())
                except FFmpegError as error:  # one packet: the decoder goes on from the next keyframe
                    why = why or str(error)
                    continue
                for frame in frames:
                    seconds = cast(float | None, frame.time)  # typed as if every frame had one
                    if seconds is None:
                        continue
                    times.append(seconds)
                    if not depth and frame.to_ndarray(format="gray").std() < FLAT_SPREAD:
                        flat.append(times[-1])
    except (FFmpegError, IndexError) as error:  # no video at all
        why = why or str(error)
    return np.sort(np.asarray(times)), np.sort(np.asarray(flat)), why


def _distance(wanted: NDArray[np.float64], had: NDArray[np.float64]) -> NDArray[np.float64]:
    """From each wanted time to the nearest one had, in seconds; shape (wanted,)."""
    if not had.size:
        return np.full(wanted.shape, np.inf)
    right = np.clip(np.searchsorted(had, wanted), 0, len(had) - 1)
    left = np.clip(right - 1, 0, len(had) - 1)
    nearest: NDArray[np.float64] = np.minimum(np.abs(had[right] - wanted), np.abs(had[left] - wanted))
    return nearest


def _check_images(timeline: Timeline, camera: str) -> Pictures:
    """Frames that are stored as pictures in the data files."""
    lost, flat, seen = [], [], 0
    for file in sorted((Path(timeline.meta.root) / "data").glob("*/*.parquet")):
        for where, picture, why in pictures(file, camera):
            if picture is None:
                lost.append(f"{where} of {file} cannot be decoded ({why})")
                continue
            seen += 1
            if camera not in timeline.meta.depth_keys and np.asarray(picture.convert("L")).std() < FLAT_SPREAD:
                flat.append(f"{where} is of one single grey")
    return Pictures(lost, flat, seen)
