"""Frames that are decoded once: the bytes are those of decoding anew, whatever codec, camera, time, disk or damage."""

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from lerobot.datasets.dataset_reader import DatasetReader
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from tests.recordings import FRONT, WRIST, shipped
from zk0.config import DataConfig
from zk0.data import kept
from zk0.files import FORK_SERVER_OF, cache
from zk0.learning.frames import KeptReader, decode_once
from zk0.work.lock import CONTAINER_MARK

MANY = 10**6
CODECS = {
    "av1": None,  # as shipped, a keyframe every second frame
    "h264": {"g": "250", "bf": "3"},
    "hevc": {"x265-params": "keyint=25:bframes=3:open-gop=0:log-level=none"},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache.FOLDER_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "frames"


@pytest.fixture(scope="module", params=CODECS)
def recording(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = shipped(tmp_path_factory.mktemp("recordings") / request.param, "study")
    if (options := CODECS[request.param]) is not None:
        for file in (root / "videos").rglob("*.mp4"):
            encode_again(file, request.param, options)
    return root


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shipped(tmp_path_factory.mktemp("recording") / "study", "study")


def encode_again(file: Path, codec: str, options: dict[str, str]) -> None:
    with av.open(str(file)) as source:
        stream = source.streams.video[0]
        pictures = [frame.to_ndarray(format="rgb24") for frame in source.decode(stream)]
        rate = stream.average_rate
    with av.open(str(file), "w") as target:
        out: Any = target.add_stream({"hevc": "libx265", "h264": "libx264"}[codec], rate, options=options)
        out.height, out.width = pictures[0].shape[:2]
        out.pix_fmt = "yuv420p"
        for picture in pictures:
            target.mux(out.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        target.mux(out.encode())


def opened(root: Path, episodes: tuple[int, ...] = (0, 1, 3), deltas: dict[str, Any] | None = None) -> LeRobotDataset:
    times = {"action": [0.0, 0.04, 0.08], **(deltas or {})}
    return LeRobotDataset(
        "zk0/study", root=root, episodes=list(episodes), delta_timestamps=times, video_backend="pyav", return_uint8=True
    )


def once(dataset: LeRobotDataset, draws: int = MANY, **data: Any) -> LeRobotDataset:
    decode_once(dataset, DataConfig(**data), draws, draws)
    return dataset


def same(one: Any, other: Any, every: int = 5) -> None:
    for number in range(0, len(one), every):
        here, there = one[number], other[number]
        assert list(here) == list(there)
        for key, value in here.items():
            if isinstance(value, torch.Tensor):
                assert value.dtype == there[key].dtype
                assert torch.equal(value, there[key]), (key, number)
            else:
                assert value == there[key]


def keeps(dataset: LeRobotDataset) -> bool:
    reader = dataset.reader
    return isinstance(reader, KeptReader) and reader._frames is not None


def never(self: DatasetReader, *_: Any) -> None:
    raise AssertionError("a frame was decoded")


def test_every_item_is_the_same_and_nothing_is_decoded_again(
    recording: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    past = {FRONT: [-0.08, -0.04, 0.0], WRIST: [0.0]}
    anew = [opened(recording), opened(recording, deltas=past)]
    items = [[dataset[number] for number in range(0, len(dataset), 4)] for dataset in anew]
    once(opened(recording))
    monkeypatch.setattr(DatasetReader, "_query_videos", never)
    for deltas, wanted in zip((None, past), items, strict=True):
        dataset = once(opened(recording, deltas=deltas))
        assert keeps(dataset)
        same([dataset[number] for number in range(0, len(dataset), 4)], wanted, 1)
    assert len(list(folder.glob("*.frames"))) == 1


def test_a_datasets_processes_take_kept_frames_too(plain: Path, folder: Path) -> None:
    dataset = once(opened(plain))
    same(pickle.loads(pickle.dumps(dataset)), opened(plain), 40)
    assert folder.is_dir()


@pytest.mark.parametrize("how", ["flipped", "cut"])
def test_what_is_damaged_is_decoded_again(plain: Path, folder: Path, how: str) -> None:
    dataset = once(opened(plain))
    (file,) = folder.glob("*.frames")
    with file.open("r+b") as content:  # under the reader's hands
        content.truncate(file.stat().st_size // 2) if how == "cut" else content.write(b"x" * 5000)
    same(dataset, opened(plain))
    assert not file.exists()
    same(once(opened(plain)), opened(plain), 20)
    assert file.exists()


def test_a_file_that_is_none_is_replaced(plain: Path, folder: Path) -> None:
    once(opened(plain))
    (file,) = folder.glob("*.frames")
    size = file.stat().st_size
    file.write_bytes(bytes(size))
    same(once(opened(plain)), opened(plain), 20)
    assert file.read_bytes() != bytes(size)


def test_off_keeps_nothing(plain: Path, folder: Path) -> None:
    assert type(once(opened(plain), cache="off").reader) is DatasetReader
    assert not folder.exists()


def test_auto_keeps_what_pays(plain: Path, folder: Path) -> None:
    few = once(opened(plain), draws=8)
    assert not keeps(few)
    once(opened(plain))
    assert keeps(once(opened(plain), draws=8)), "those that are there cost nothing"
    assert keeps(once(opened(plain, (2,)), draws=8, cache="disk")), "asked for"


@pytest.fixture
def in_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder in memory of this process, as a worker's orchestrator."""
    monkeypatch.setenv(FORK_SERVER_OF, str(os.getpid()))
    folder = cache.in_memory()
    assert folder is not None
    yield folder
    cache.forget(os.getpid())
    assert not folder.exists()


def test_in_memory_they_go_with_the_process(plain: Path, folder: Path, in_memory: Path) -> None:
    assert keeps(once(opened(plain), cache="ram"))
    assert list(in_memory.glob("frames/*.frames"))
    assert not folder.exists()
    gone = in_memory.with_name(f"zk0-{os.getuid()}-99999999")
    gone.mkdir()
    assert cache.in_memory() == in_memory
    assert not gone.exists(), "of a process that was killed"


def test_a_container_keeps_its_own_in_memory(
    plain: Path, folder: Path, in_memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CONTAINER_MARK, "zk0-c")
    dataset = opened(plain)
    decode_once(dataset, DataConfig(), len(dataset) // 4, MANY)
    assert not keeps(dataset), "this piece of work alone is no reason to"
    assert keeps(once(opened(plain)))
    assert not folder.exists()


def test_there_is_a_bound_and_what_nobody_reads_gives_way(plain: Path, folder: Path) -> None:
    once(opened(plain, (0,)))
    (first,) = folder.glob("*.frames")
    most = f"{int(first.stat().st_size * 1.6)}b"
    assert not keeps(once(opened(plain, (1,)), cache_limit=most))
    assert first.exists()
    os.utime(first, (1.0, 1.0))
    assert keeps(once(opened(plain, (1,)), cache_limit=most))
    assert not first.exists()


def test_another_recording_has_other_frames(plain: Path, folder: Path, tmp_path: Path) -> None:
    once(opened(plain))
    other = shipped(tmp_path / "study", "study")
    encode_again(next((other / "videos" / FRONT).rglob("*.mp4")), "h264", {"crf": "40"})
    same(once(opened(other)), opened(other), 20)
    assert len(list(folder.glob("*.frames"))) == 2


def test_a_process_that_was_killed_leaves_the_place_free(plain: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / f".{'0' * 64}.99999999.tmp").write_bytes(b"begun")
    assert keeps(once(opened(plain)))
    assert not list(folder.glob(".*.tmp"))


def test_frames_that_cannot_be_had_are_training_s_to_tell(plain: Path, folder: Path, tmp_path: Path) -> None:
    broken = shipped(tmp_path / "study", "study")
    file = next((broken / "videos" / WRIST).rglob("*.mp4"))
    with file.open("r+b") as content:
        content.truncate(file.stat().st_size // 20)
    assert not keeps(once(opened(broken)))
    assert not list(folder.glob(".*.tmp"))


def test_a_disk_that_cannot_be_written_is_none(plain: Path, folder: Path, in_memory: Path) -> None:
    folder.parent.mkdir()
    folder.write_text("no folder")
    assert keeps(once(opened(plain)))
    assert list(in_memory.glob("frames/*.frames"))


def test_what_is_overridden_is_what_lerobot_calls(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The contract: an item's frames are those of `_query_videos`, by camera, times and episode."""
    asked: list[tuple[dict[str, list[float]], int]] = []

    def seen(self: DatasetReader, times: dict[str, list[float]], episode: int) -> dict[str, torch.Tensor]:
        asked.append((times, episode))
        return {key: torch.full((3, 2, 2), 7, dtype=torch.uint8) for key in times}

    monkeypatch.setattr(DatasetReader, "_query_videos", seen)
    item = opened(plain, (3,))[1]
    ((times, episode),) = asked
    assert episode == 3
    assert times.keys() == {FRONT, WRIST}
    assert times[FRONT] == [pytest.approx(0.04)]
    assert item[FRONT].shape == (3, 2, 2)


def test_layouts_differ_by_their_cameras() -> None:
    one, other = kept.Layout("k", 2, {"a": (3, 4, 4)}), kept.Layout("k", 2, {"b": (3, 4, 4)})
    assert one.magic != other.magic
    assert one.size == 32 + 2 * (4 + 48)
    assert one.place("a", 1) == (32 + 48, 48)
