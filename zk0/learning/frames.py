"""Camera frames that are decoded once: LeRobot's reader, which looks for a frame among those that are kept first.

What is kept is what decoding gave, bit for bit, whichever codec; what is not kept is decoded as ever. LeRobot has no
public way to give its reader frames, so private methods of it are overridden; tests/unit/learning/test_frames.py holds
their contract, and that every item is the same.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from itertools import batched, groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from lerobot.datasets.dataset_reader import DatasetReader
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from loguru import logger

from zk0.config import DataConfig
from zk0.data import kept
from zk0.data.digest import UNREADABLE, file_digests
from zk0.data.kept import KeptFrames, Layout
from zk0.errors import first_line
from zk0.learning.places import places

AT_ONCE_BYTES = 32 * 2**20
"""Decoded frames in memory while they are being kept."""
PACKAGES = ("lerobot", "torch", "av", "torchcodec")
"""What frames are decoded by."""
PROBED = 3
"""Frames of each camera that are decoded a second time, alone, as training would."""
WHOLE = (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32())
FAULTS = (OSError, ValueError, KeyError, IndexError, RuntimeError)
"""What decoders, disks and an odd recording raise: training meets it again, at the frame that it is of."""


def decode_once(dataset: LeRobotDataset, data: DataConfig, draws: int, run_draws: int) -> None:
    """Let a dataset take its frames from those that are kept, which are decoded now where that pays.

    Args:
        dataset: the frames that are asked for.
        data: `cache` and `cache_limit`.
        draws: frames that this piece of work will ask for.
        run_draws: those that the whole run will, by pieces that share what is kept.
    """
    if data.cache == "off" or not len(dataset):
        return
    dataset.reader = KeptReader(dataset.reader, _frames(dataset, data, draws, run_draws))


def _frames(dataset: LeRobotDataset, data: DataConfig, draws: int, run_draws: int) -> KeptFrames | None:
    cameras = _cameras(dataset, data)
    for place in places(data) if cameras else ():
        try:
            layout = Layout(_key(dataset, data, shared=place.shared), len(dataset), cameras)
            found = kept.find(place.folder, layout)
            if found is None and _pays(data, len(dataset), run_draws if place.shared else draws):
                found = kept.keep(place.folder, layout, place.most, _decoded(dataset, layout))
        except FAULTS as error:
            logger.info("the frames of {} are not kept in {}: {}", dataset.repo_id, place.folder, first_line(error))
            if not isinstance(error, OSError):
                return None
        else:
            return found
    return None


def _pays(data: DataConfig, frames: int, draws: int) -> bool:
    """Whether to decode all frames in their order is less work than to decode those that are drawn, one by one."""
    return data.cache != "auto" or draws * DEARER >= frames


DEARER = 2
"""Times that a single frame costs, at least, what it costs in its order: a video is opened and sought for each."""


def _cameras(dataset: LeRobotDataset, data: DataConfig) -> dict[str, tuple[int, ...]]:
    """Camera -> shape of a frame, of those whose frames are three bytes a pixel in a video."""
    found: dict[str, tuple[int, ...]] = {}
    if data.video_backend == "torchcodec" and 2 * data.tolerance_s * dataset.meta.fps >= 1:
        return found  # it takes the frame whose number fits, among several that are near enough in time
    for key in dataset.meta.video_keys:
        shape, names = tuple(dataset.meta.features[key]["shape"]), dataset.meta.features[key].get("names")
        if key in dataset.meta.depth_keys or len(shape) != 3:
            continue
        found[key] = shape if names and names[0] in ("channels", "channel") else (shape[2], *shape[:2])
    return found


def _key(dataset: LeRobotDataset, data: DataConfig, *, shared: bool) -> str:
    """Digest of all that decoded frames depend on.

    Raises:
        OSError: a file of the recording cannot be read.
    """
    root = Path(dataset.meta.root)
    files: Any = file_digests(root) if shared else str(root)
    if UNREADABLE in files:
        raise OSError(f"{root} cannot be read")
    decoders = {name: _version(name) for name in PACKAGES}
    rest = [dataset.episodes, data.video_backend, data.tolerance_s, decoders]
    return hashlib.sha256(json.dumps([files, rest], sort_keys=True).encode()).hexdigest()


def _version(package: str) -> str:
    with suppress(ImportError):
        return version(package)
    return ""


class KeptReader(DatasetReader):  # type: ignore[misc]  # LeRobot has no types
    """LeRobot's reader of a dataset, with frames that were decoded before, and what is asked of rows in memory.

    Args:
        reader: the dataset's own, whose state is taken over.
        frames: what is kept; None where there are none to keep.
    """

    def __init__(self, reader: DatasetReader, frames: KeptFrames | None) -> None:
        self.__dict__.update(vars(reader))
        self._frames = frames
        self._numbers = {place: number for number, place in enumerate(_moments(reader))} if frames else {}
        self._columns: dict[str, torch.Tensor | None] = {}

    def _query_videos(self, query_timestamps: dict[str, list[float]], ep_idx: int) -> dict[str, torch.Tensor]:
        """Frames of one episode by camera and time; shape (times, channels, height, width), as LeRobot gives them."""
        found = {key: self._kept(key, times, ep_idx) for key, times in query_timestamps.items()}
        lacking = {key: times for key, times in query_timestamps.items() if found[key] is None}
        decoded: dict[str, torch.Tensor] = super()._query_videos(lacking, ep_idx) if lacking else {}
        return {key: decoded[key] if frames is None else frames for key, frames in found.items()}

    def _kept(self, camera: str, times: list[float], episode: int) -> torch.Tensor | None:
        numbers = [self._numbers.get((episode, moment)) for moment in times]
        if self._frames is None or not self._frames.has(camera) or None in numbers:
            return None
        frames = [self._frames.frame(camera, number) for number in numbers if number is not None]
        there = [frame for frame in frames if frame is not None]
        return torch.stack(there).squeeze(0) if len(there) == len(times) else None

    def _query_hf_dataset(self, query_indices: dict[str, list[int]]) -> dict[str, Any]:
        """Values of some features at some frames, by their numbers in the whole recording; shape (frames, ...)."""
        rows = {key: self._rows(key, numbers) for key, numbers in query_indices.items()}
        found: dict[str, Any] = {key: values for key, values in rows.items() if values is not None}
        lacking = {key: numbers for key, numbers in query_indices.items() if key not in found}
        found |= super()._query_hf_dataset(lacking) if lacking else {}
        return {key: found[key] for key in query_indices if key in found}  # videos' frames are asked for elsewhere

    def _rows(self, key: str, numbers: list[int]) -> torch.Tensor | None:
        if key not in self._columns:
            self._columns[key] = self._column(key)
        column, places = self._columns[key], self._absolute_to_relative_idx
        if column is None:
            return None
        return column[numbers if places is None else [places[number] for number in numbers]]

    def _column(self, key: str) -> torch.Tensor | None:
        """A feature of all rows, as LeRobot's reader gives it; None where it is none of plain numbers."""
        if key in self._meta.camera_keys or (column := _plain(self.hf_dataset.data.column(key))) is None:
            return None
        places = self._absolute_to_relative_idx
        ends = [0, len(column) - 1]
        numbers = ends if places is None else [list(places)[end] for end in ends]
        theirs = super()._query_hf_dataset({key: numbers})[key]
        return column if theirs.dtype == column.dtype and torch.equal(theirs, column[ends]) else None


def _plain(column: pa.ChunkedArray) -> torch.Tensor | None:
    """Numbers, or lists of them of one length, as LeRobot makes tensors of them: by way of Python's own numbers."""
    if isinstance(column.type, pa.ExtensionType) or column.null_count:
        return None
    whole, shape = column.combine_chunks(), [-1]
    if pa.types.is_fixed_size_list(column.type):
        shape = [len(whole), column.type.list_size]
        whole = whole.flatten()
    if not (pa.types.is_floating(whole.type) or whole.type in WHOLE) or whole.null_count:
        return None
    kind = np.float32 if pa.types.is_floating(whole.type) else np.int64
    return torch.from_numpy(whole.to_numpy(zero_copy_only=False).astype(kind).reshape(shape))


def _moments(reader: DatasetReader) -> Iterator[tuple[int, float]]:
    """Episode and time of every row, as LeRobot asks for its frames; a time is a float32 for it."""
    rows = reader.hf_dataset.data
    episodes, times = rows.column("episode_index").to_numpy(), rows.column("timestamp").to_numpy()
    yield from zip(episodes.tolist(), times.astype(np.float32).tolist(), strict=True)


def _decoded(dataset: LeRobotDataset, layout: Layout) -> Iterator[tuple[str, int, torch.Tensor]]:
    """Every frame of every camera, in the order in which it lies in its file, decoded by LeRobot's own reader.

    Raises:
        OSError, ValueError, RuntimeError: a frame cannot be had as training would have it.
    """
    moments = list(_moments(dataset.reader))
    for camera, shape in layout.cameras.items():
        for turn, numbers in enumerate(_parts(moments, max(1, AT_ONCE_BYTES // math.prod(shape)))):
            frames = _decode(dataset.reader, camera, moments, numbers)
            if turn < PROBED and not torch.equal(frames[-1:], _decode(dataset.reader, camera, moments, numbers[-1:])):
                raise ValueError(f"{camera}: frames are not the same when they are decoded one by one")
            yield from ((camera, number, frame) for number, frame in zip(numbers, frames, strict=True))


def _parts(moments: list[tuple[int, float]], at_once: int) -> Iterator[list[int]]:
    """The numbers of frames that are decoded together: of one episode, and not too many."""
    for _, group in groupby(range(len(moments)), key=lambda number: moments[number][0]):
        yield from (list(part) for part in batched(group, at_once))


def _decode(reader: DatasetReader, camera: str, moments: list[tuple[int, float]], numbers: list[int]) -> torch.Tensor:
    """Frames of one episode: shape (frames, channels, height, width)."""
    times = [moments[number][1] for number in numbers]
    frames: torch.Tensor = reader._query_videos({camera: times}, moments[numbers[0]][0])[camera]  # noqa: SLF001
    return frames if len(times) > 1 else frames.unsqueeze(0)
