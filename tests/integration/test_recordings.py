"""Recordings as people bring them: older formats, odd but good ones, and ones that contradict themselves."""

import itertools
import json
import logging
import math
import random
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.scripts.convert_dataset_v21_to_v30 import convert_dataset
from packaging.version import Version

from tests.recordings import (
    ACTION,
    FRONT,
    STATE,
    WRIST,
    as_old,
    edit_cell,
    edit_episodes,
    edit_info,
    edit_rows,
    first_episodes,
    shipped,
    shorten,
    video,
    with_column,
    write_lines,
)
from tests.refusals import accepted, refused, tree
from zk0.config import DatasetConfig, RunConfig, validate_config
from zk0.data.convert import record_statistics
from zk0.data.datasets import open_metadata
from zk0.data.findings import DataFinding, DataReport
from zk0.data.statistics import training_statistics
from zk0.data.versions import hub_fault
from zk0.errors import BadInputError, ConfigError, DatasetError
from zk0.preflight.checks import check_data
from zk0.preflight.datasets import report

pytestmark = pytest.mark.slow
Change = Callable[[Path], object]
ENVIRONMENT = "observation.environment_state"
INFO, EPISODES, TASKS, DATA = "meta/info.json", "meta/episodes", "meta/tasks.parquet", "data/chunk-000/file-000.parquet"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `root` nobody is asked for anything."""

    def refuse(*arguments: Any, **_: Any) -> None:
        raise AssertionError(f"somebody was asked: {arguments}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)  # worker processes are spoken to by other sockets


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Four episodes of a shipped recording, a private copy."""
    return first_episodes(shipped(tmp_path / "recording"), 4)


def raw(root: Path, **changes: Any) -> dict[str, Any]:
    """A run's config with the recording as its only client."""
    data: dict[str, Any] = {
        "outputs_dir": str(root.parent / "outputs"),
        "federation": {"num_rounds": 1, "min_train_clients": 1},
        "clients": [{"name": "mine", "repo_id": "me/mine", "root": str(root)}],
        "policy": {"path": "asset:base", "device": "cpu"},
        "evaluation": {"holdout_episodes": 1},
        "memory": {"probe": False},
    }
    return data | changes


def config(root: Path, **changes: Any) -> RunConfig:
    return validate_config(raw(root, **changes))


def look(root: Path, **changes: Any) -> DataReport:
    return report(config(root, **changes), every_frame=False)


def errors(root: Path, **changes: Any) -> list[DataFinding]:
    return look(root, **changes).of("error")


# --- older formats -----------------------------------------------------------------------------------------------


CONVERTER = (
    r"python -m lerobot\.scripts\.convert_dataset_v21_to_v30 --repo-id=me/mine --root={root} --push-to-hub=false"
)


def test_an_older_format_is_refused_with_what_converts_it(recording: Path, tmp_path: Path) -> None:
    old = as_old(recording, tmp_path / "my arm")
    root = f"'{old}'"
    refused(raw(old), "mine", INFO, "codebase_version = 'v2.1'", "--fix-to", CONVERTER.format(root=root))


def version(value: Any) -> Change:
    return lambda root: edit_info(root, lambda info: info.update(codebase_version=value))


def no_version(root: Path) -> None:
    edit_info(root, lambda info: info.pop("codebase_version"))


OLD = {
    "v2.0": (version("v2.0"), ["'v2.0' is older", "convert_dataset_v20_to_v21", CONVERTER]),
    "2.1": (version("2.1"), ["'2.1' is older", CONVERTER]),
    "v1.6": (version("v1.6"), ["'v1.6' is older", CONVERTER]),
    "none": (no_version, ["has no codebase_version", "those of v2", CONVERTER]),
    "no version": (version("two"), ["'two' is no version", "those of v2", CONVERTER]),
    "a number": (version(2.1), ["2.1 is no version", CONVERTER]),
}


@pytest.mark.parametrize(("change", "words"), OLD.values(), ids=OLD)
def test_older_formats_are_named(change: Change, words: list[str], recording: Path, tmp_path: Path) -> None:
    old = as_old(recording, tmp_path / "old", episodes=2)
    change(old)
    (found,) = errors(old)
    for word in words:
        assert_said(found, word.format(root=old))


NOT_OLD = {
    "newer": (version("v4.0"), "'v4.0' is newer than v3.0, the newest that this LeRobot knows; use a newer zk0"),
    "none": (no_version, 'has no codebase_version; its files are those of v3; write "codebase_version": "v3.0"'),
    "no version": (version("x"), "codebase_version = 'x' is no version; its files are those of v3"),
    "null": (version(None), "codebase_version = None is no version"),
    "a wrong label": (version("v2.1"), "older than v3.0.*its files are those of v3, so that the key may be wrong"),
}


@pytest.mark.parametrize(("change", "words"), NOT_OLD.values(), ids=NOT_OLD)
def test_other_versions_are_named(change: Change, words: str, recording: Path) -> None:
    change(recording)
    (found,) = errors(recording)
    assert_said(found, words)


def test_the_first_format_is_named(tmp_path: Path) -> None:
    (tmp_path / "first" / "meta_data").mkdir(parents=True)
    (tmp_path / "first" / "meta_data" / "info.json").write_text('{"fps": 30}')
    (found,) = errors(tmp_path / "first")
    assert_said(found, "format v1.*convert_dataset_v1_to_v2.*convert_dataset_v20_to_v21.*convert_dataset_v21_to_v30")


ON_THE_HUB = {
    "old": (
        "",
        ["2.0", "2.1"],
        "is v2.0, v2.1 on the hub, older than v3.0.*v21_to_v30 --repo-id=me/mine --push-to-hub",
    ),
    "new": ("", ["4.0"], "is v4.0 on the hub, newer than v3.0"),
    "none": ("", [], "has no version tag on the hub.*revision = .main.*create_tag"),
    "an old revision": ("v2.1", ["2.1", "3.0"], "revision = 'v2.1' is of another format.*leave revision out"),
}


@pytest.mark.parametrize(("revision", "tags", "words"), ON_THE_HUB.values(), ids=ON_THE_HUB)
def test_versions_on_the_hub_are_named(revision: str, tags: list[str], words: str) -> None:
    dataset = DatasetConfig(name="mine", repo_id="me/mine", revision=revision or None)
    said = str(hub_fault(dataset, [Version(tag) for tag in tags]))
    assert re.search(f"dataset 'mine': repo_id = 'me/mine': {words}", said), said


@pytest.mark.parametrize("images", [False, True], ids=["videos", "images"])
@pytest.mark.parametrize("old_version", ["v2.1", "v2.0"])
def test_an_older_recording_is_converted_in_a_copy(
    old_version: str, images: bool, recording: Path, tmp_path: Path
) -> None:
    old = as_old(recording, tmp_path / "old", old_version, images=images)
    before = tree(old)
    assert "ok" in accepted(raw(old), (), f"--fix-to={tmp_path / 'new'}")
    assert tree(old) == before
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mine"]
    same_frames(recording, tmp_path / "new" / "mine")
    assert not errors(tmp_path / "new" / "mine")
    with pytest.raises(ConfigError, match="exists; choose a folder without it"):
        check_data(config(old), tmp_path / "new")


def same_frames(source: Path, copy: Path) -> None:
    one, other = (LeRobotDataset("me/mine", root=root, video_backend="pyav") for root in (source, copy))
    assert len(one) == len(other)
    for number in (0, len(one) // 2, len(one) - 1):
        for key in (STATE, ACTION, "timestamp", "episode_index"):
            assert one[number][key].equal(other[number][key])
        assert one[number]["task"] == other[number]["task"]
        assert (one[number][WRIST] - other[number][WRIST]).abs().mean() < 0.05  # encoded once more


def pointer(path: str) -> Change:
    return lambda root: (root / path).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


OLD_DATA, OLD_VIDEO = "data/chunk-000/episode_000001.parquet", f"videos/chunk-000/{FRONT}/episode_000001.mp4"
UNCONVERTIBLE = {
    "a missing data file": (lambda root: (root / OLD_DATA).unlink(), f"{OLD_DATA}: is missing"),
    "a missing video": (lambda root: (root / OLD_VIDEO).unlink(), f"{OLD_VIDEO}: is missing"),
    "a pointer": (pointer(OLD_VIDEO), f"{OLD_VIDEO}: is a git-lfs pointer.*git lfs pull"),
    "a cut video": (lambda root: (root / OLD_VIDEO).write_bytes(b"x" * 100), "LeRobot's converter cannot take it"),
    "a gap": (
        lambda root: write_lines(root / "meta" / "episodes.jsonl", [{"episode_index": i, "length": 1} for i in (0, 2)]),
        r"episodes.jsonl: episode_index does not count 0, 1, 2, ...: \[0, 2\]",
    ),
    "another length": (
        lambda root: write_lines(
            root / "meta" / "episodes.jsonl", [{"episode_index": i, "tasks": ["x"], "length": 1} for i in (0, 1)]
        ),
        r"episode_000000.parquet: has \d+ rows, but meta/episodes.jsonl says that episode 0 has 1",
    ),
    "a template of another format": (
        lambda root: edit_info(root, lambda info: info.update(data_path="data/{chunk_index}.parquet")),
        "info.json: data_path = .* is no path with episode_chunk",
    ),
    "no tasks": (lambda root: (root / "meta" / "tasks.jsonl").unlink(), "tasks.jsonl: is missing"),
}


@pytest.mark.parametrize(("change", "words"), UNCONVERTIBLE.values(), ids=UNCONVERTIBLE)
def test_what_cannot_be_converted_is_named_and_leaves_nothing(
    change: Change, words: str, recording: Path, tmp_path: Path
) -> None:
    old = as_old(recording, tmp_path / "old", episodes=2)
    change(old)
    with pytest.raises(DatasetError, match=rf"dataset 'mine': {old}.*{words}"):
        check_data(config(old), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_wrong_label_is_corrected_in_a_copy(recording: Path, tmp_path: Path) -> None:
    version("v2.1")(recording)
    assert not check_data(config(recording), tmp_path / "new").of("error")
    same_frames(tmp_path / "new" / "mine", tmp_path / "new" / "mine")


def test_false_statistics_are_made_anew_in_a_copy(recording: Path, tmp_path: Path) -> None:
    edit_cell(recording, f"stats/{ACTION}/std", 1, [math.nan] * 6, episodes=True)
    edit_episodes(recording, lambda table: table.drop_columns([f"stats/{STATE}/mean"]))
    assert not check_data(config(recording), tmp_path / "new").of("error")
    whole = training_statistics(open_metadata(config(tmp_path / "new" / "mine").clients[0]), 1)
    first = training_statistics(open_metadata(config(first_episodes(shipped(tmp_path / "b"), 4)).clients[0]), 1)
    for name in ("mean", "std", "q50", "count"):
        np.testing.assert_allclose(whole[ACTION][name], first[ACTION][name], rtol=1e-5)


# --- what contradicts itself -------------------------------------------------------------------------------------


def assert_said(found: DataFinding, words: str) -> None:
    assert re.search(words, str(found)), f"{words!r} is not in: {found}"


def info(**values: Any) -> Change:
    return lambda root: edit_info(root, lambda content: content.update(values))


def feature(key: str, **values: Any) -> Change:
    return lambda root: edit_info(root, lambda content: content["features"][key].update(values))


def episode(name: str, row: int, value: Any) -> Change:
    return lambda root: edit_cell(root, name, row, value, episodes=True)


def cell(name: str, row: int, value: Any) -> Change:
    return lambda root: edit_cell(root, name, row, value)


def tasks(change: Callable[[Any], Any]) -> Change:
    """Change tasks.parquet as pandas' table, whose index is the tasks' texts."""

    def edit(root: Path) -> None:
        path = root / TASKS
        change(pq.read_table(path).to_pandas()).to_parquet(path)

    return edit


def cut(path: str) -> Change:
    return lambda root: (root / path).write_bytes((root / path).read_bytes()[:500])


def statistic(name: str, change: Callable[[Any], Any], key: str = ACTION) -> Change:
    """Change one recorded statistic of episode 1."""

    def edit(root: Path) -> None:
        table = pq.read_table(next((root / "meta" / "episodes").rglob("*.parquet")))
        old = np.asarray(table[f"stats/{key}/{name}"].to_pylist()[1])
        edit_cell(root, f"stats/{key}/{name}", 1, np.asarray(change(old)).tolist(), episodes=True)

    return edit


def stray_rows(root: Path) -> None:
    shutil.copy(root / DATA, root / "data" / "chunk-000" / "file-000 (copy).parquet")


FIRST_VIDEO = f"videos/{FRONT}/chunk-000/file-000.mp4"
MAC = b"\x00\x05\x16\x07"
"""How the files begin that macOS leaves."""


def bom(root: Path) -> None:
    (root / INFO).write_bytes(b"\xef\xbb\xbf" + (root / INFO).read_bytes())


def shorter_video(root: Path) -> None:
    """Encoded again, and cut."""
    with av.open(str(root / FIRST_VIDEO)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in itertools.islice(container.decode(video=0), 40)]
    video(root / FIRST_VIDEO, np.stack(pictures), 25)


CONTRADICTIONS: dict[str, tuple[Change, str]] = {
    "statistics in a list": (
        lambda root: (root / "meta" / "stats.json").write_text("[]"),
        r"meta/stats.json: is damaged \(it holds \[\], not keys and values\)",
    ),
    "a file without rows": (
        lambda root: edit_rows(root, lambda table: table.slice(0, 0)),
        "rows: data/ has 0 rows, but",
    ),
    "another fps": (info(fps=29.97), r"a time step is off 1/fps by 0\.006\d+ s, .* fps = 29\.97\)"),
    "fps true": (info(fps=True), f"{INFO}: fps = True is no number above 0"),
    "a count with a point": (info(total_episodes=4.0), f"{INFO}: total_episodes = 4.0 is no whole number"),
    "sizes with a point": (feature(ACTION, shape=[6.0]), f"{INFO}: features.action.shape = .6.0. is no list of sizes"),
    "a byte order mark": (bom, f"{INFO}: begins with a byte order mark.*; save it as UTF-8 without BOM"),
    "a video that is too short": (shorter_video, rf"episode 3 ends at .* s of .*{FIRST_VIDEO}, which lasts 1\.6"),
    "a folder for a video": (
        lambda root: ((root / FIRST_VIDEO).unlink(), (root / FIRST_VIDEO).mkdir()),
        f"{FIRST_VIDEO} is no file",
    ),
    "rows that macOS left": (
        lambda root: (root / DATA).with_name("._file-000.parquet").write_bytes(MAC),
        r"a data file cannot be read: .*\._file-000\.parquet .*; remove it: macOS left it",
    ),
    "episodes that macOS left": (
        lambda root: (root / EPISODES / "chunk-000" / "._file-000.parquet").write_bytes(MAC),
        r"\._file-000\.parquet: cannot be read .*; remove it: macOS left it",
    ),
    "episodes in another order": (
        lambda root: edit_episodes(root, lambda table: table.take([1, 0, 2, 3])),
        f"{EPISODES}: episode_index is 1 in row 0",
    ),
    "a time before the video": (
        episode(f"videos/{FRONT}/from_timestamp", 1, -1.0),
        "from_timestamp is -1.0 in row 1, not a time in seconds",
    ),
    "more episodes": (info(total_episodes=9), f"{EPISODES}: has 4 episodes, but info.json says total_episodes = 9"),
    "fewer episodes": (info(total_episodes=2), f"{EPISODES}: has 4 episodes, but info.json says total_episodes = 2"),
    "no episodes": (info(total_episodes=0), f"{EPISODES}: has 4 episodes, but info.json says total_episodes = 0"),
    "more frames": (info(total_frames=10**6), r"episodes of \d+ frames in all, but info.json says total_frames = 10"),
    "more tasks": (info(total_tasks=2), f"{INFO}: total_tasks = 2, but meta/tasks.parquet has 1"),
    "no tasks counted": (info(total_tasks=0), f"{INFO}: total_tasks = 0"),
    "a count that is none": (info(total_frames="many"), f"{INFO}: total_frames = 'many' is no whole number"),
    "fps of 0": (info(fps=0), f"{INFO}: fps = 0 is no number above 0"),
    "fps as text": (info(fps="25"), f"{INFO}: fps = '25' is no number above 0"),
    "no features": (info(features={}), f"{INFO}: features = {{}} names no feature"),
    "a path of another format": (
        info(data_path="data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"),
        f"{INFO}: data_path = .* is no path with chunk_index and file_index",
    ),
    "no path of videos": (info(video_path=None), f"{INFO}: video_path = None"),
    "a path of another place": (
        info(data_path="/etc/passwd"),
        f"{INFO}: data_path = '/etc/passwd' leads out of the dataset's folder .*; write 'data/chunk-",
    ),
    "no camera in the path": (
        info(video_path="videos/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"),
        f"{INFO}: video_path = .* has no {{video_key}}: all cameras would show the same; write 'videos/",
    ),
    "an unknown type": (feature(ACTION, dtype="float33"), f"{INFO}: features.action = .*float33.* is no column"),
    "a shape that is none": (feature(ACTION, shape=None), f"{INFO}: features.action.shape = None is no list of sizes"),
    "another shape": (feature(ACTION, shape=[7]), f"'action' has 6 numbers in a row, info.json says 7.*{DATA}"),
    "another type": (feature(ACTION, dtype="int64"), f"'action' is .* in .*{DATA}, which is no"),
    "an undeclared column": (
        lambda root: edit_rows(root, lambda rows: rows.append_column("reward", pa.array([0.0] * len(rows)))),
        f"{DATA} has a column 'reward', which is no feature of info.json",
    ),
    "a column that is missing": (
        lambda root: edit_rows(root, lambda rows: rows.drop_columns([ENVIRONMENT])),
        f"{DATA} has no column '{ENVIRONMENT}'",
    ),
    "a gap in the episodes": (episode("episode_index", 3, 4), f"{EPISODES}: episode_index is 4 in row 3"),
    "an episode without frames": (episode("length", 1, 0), f"{EPISODES}: episode 1 has length 0"),
    "another length": (episode("length", 1, 3), f"{EPISODES}: episode 1 of 3 frames is said to be frames"),
    "another border": (episode("dataset_from_index", 2, 5), f"{EPISODES}: episode 2 of .* is said to be frames 5 to"),
    "a border that is none": (episode("dataset_to_index", 2, None), "dataset_to_index is None in row 2, not a whole"),
    "another file": (episode("data/file_index", 2, 7), r"data/chunk-000/file-007.parquet is missing"),
    "no time in the video": (
        episode(f"videos/{FRONT}/from_timestamp", 2, None),
        f"{FRONT}/from_timestamp is None in row 2, not a time in seconds",
    ),
    "another's pictures": (
        episode(f"videos/{FRONT}/from_timestamp", 2, 0.1),
        f"video times: {FRONT}: episodes 0 and 2 overlap in .*{FIRST_VIDEO}",
    ),
    "past the video's end": (
        episode(f"videos/{FRONT}/from_timestamp", 3, 1000.0),
        f"video times: {FRONT}: episode 3 ends at .* s of .*{FIRST_VIDEO}, which lasts",
    ),
    "no column of a camera": (
        lambda root: edit_episodes(root, lambda table: table.drop_columns([f"videos/{WRIST}/file_index"])),
        f"{EPISODES}/.*parquet: has no column 'videos/{WRIST}/file_index'",
    ),
    "tasks in a column": (
        tasks(lambda table: table.reset_index()),
        f"{TASKS}: has the tasks' texts in a column.*set_in",
    ),
    "tasks without texts": (
        tasks(lambda table: table.reset_index(drop=True)),
        f"{TASKS}: has 0 for the text of a task",
    ),
    "a task's number": (tasks(lambda table: table.assign(task_index=3)), f"{TASKS}: task_index is 3 in row 0"),
    "an unknown task": (
        cell("task_index", 5, 4),
        f"task_index is 4 in row 5 of .*{DATA}, but meta/tasks.parquet has 1",
    ),
    "another episode": (
        cell("episode_index", 0, 2),
        r"episode 0 has \d+ rows in data/, but length \d+ in meta/episodes",
    ),
    "an index": (cell("index", 7, 8), f"the index column does not count .*: 8 in row 7 of .*{DATA}"),
    "a time that is none": (cell("timestamp", 7, math.nan), f"the time stamp of row 7 of .*{DATA} is nan"),
    "an empty cell": (cell(STATE, 7, None), f"{DATA}: 'observation.state' is empty .null. in row 7"),
    "an empty number": (cell(STATE, 7, [None] * 6), f"{DATA}: 'observation.state' is empty .null. in row 7"),
    "infinity": (cell(ENVIRONMENT, 7, [math.inf] * 7), f"'{ENVIRONMENT}' holds NaN or infinity .* row 7 of .*{DATA}"),
    "rows that nobody names": (stray_rows, r"file-000 \(copy\).parquet has \d+ rows, but no episode names it"),
    "cut info": (cut(INFO), f"{INFO}: is damaged"),
    "info of another kind": (lambda root: (root / INFO).write_text("[]"), f"{INFO}: is damaged"),
    "cut tasks": (cut(TASKS), f"{TASKS}: cannot be read"),
    "no tasks": (lambda root: (root / TASKS).unlink(), f"{TASKS}: is missing"),
    "no table of episodes": (lambda root: shutil.rmtree(root / EPISODES), f"{EPISODES}: has no parquet file"),
    "a cut table of episodes": (cut(f"{EPISODES}/chunk-000/file-000.parquet"), f"{EPISODES}/.*parquet: cannot be read"),
    "cut rows": (cut(DATA), f"a data file cannot be read: .*{DATA}"),
    "a pointer for rows": (pointer(DATA), f"{DATA} is a git-lfs pointer.*git lfs pull"),
    "a pointer for info": (pointer(INFO), f"{INFO}: is a git-lfs pointer.*git lfs pull"),
    "a pointer for a video": (pointer(FIRST_VIDEO), f"{FIRST_VIDEO} is a git-lfs pointer.*git lfs pull"),
    "a cut video": (cut(FIRST_VIDEO), f"{FIRST_VIDEO} cannot be opened as a video"),
    "an empty video": (lambda root: (root / FIRST_VIDEO).write_bytes(b""), f"{FIRST_VIDEO} is missing or empty"),
    "a dead link": (
        lambda root: ((root / DATA).unlink(), (root / DATA).symlink_to(root / "gone")),
        f"{DATA} is missing or empty .a link",
    ),
    "a mean of other rows": (statistic("mean", lambda old: old + 5), "statistics: .*the mean of 'action' in episode 1"),
    "a spread of other rows": (
        statistic("std", lambda old: old * 100),
        "statistics: .*the std of 'action' in episode 1",
    ),
    "no spread": (statistic("std", lambda old: old * math.nan), r"the std of 'action' in episode 1 is \[nan"),
    "a lower end": (statistic("min", lambda old: old - 50), "the min of 'action' in episode 1"),
    "an upper end": (statistic("max", lambda old: old * math.inf), r"the max of 'action' in episode 1 is \["),
    "a median": (statistic("q50", lambda old: old + 90), "the q50 of 'action' in episode 1"),
    "a count": (statistic("count", lambda old: old * 1000), r"the count of 'action' in episode 1 is \[\d+000|e\+04"),
    "too few": (statistic("mean", lambda old: old[:2]), "the mean of 'action' in episode 1"),
    "no statistics": (
        lambda root: edit_episodes(root, lambda table: table.drop_columns([f"stats/{ACTION}/mean"])),
        "statistics: .*episode 0 lacks action/mean",
    ),
}


@pytest.mark.parametrize(("change", "words"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_what_contradicts_itself_is_named_with_its_file(change: Change, words: str, recording: Path) -> None:
    change(recording)
    before = tree(recording)
    found = errors(recording)
    assert found, "nothing was found"
    said = " ".join(map(str, found))
    assert re.search(rf"dataset 'mine': .*{words}", said), f"{words!r} is not in: {said}"
    assert all(item.remedy for item in found)
    assert tree(recording) == before


@pytest.mark.parametrize("name", ["arm [3]", "left::right", "a**b", "arm[!x]", "arm*"])
def test_a_folder_that_lerobot_takes_for_a_pattern_is_named(name: str, recording: Path, tmp_path: Path) -> None:
    recording.rename(tmp_path / name)
    (tmp_path / "arm2").mkdir()  # what the star stands for, too
    said = "root = '.*': LeRobot reads .* in a path as a pattern"
    if name == "arm [3]":
        refused(raw(tmp_path / name), "mine", said, "rename the folder, or give a link")
    assert_said(errors(tmp_path / name)[0], f"dataset 'mine': metadata: {said}, .*; rename the folder")
    recording.symlink_to(tmp_path / name)
    assert not errors(recording)


def test_signs_in_a_folders_name_that_are_no_pattern(recording: Path, tmp_path: Path) -> None:
    root = recording.rename(tmp_path / "a[b, 50 %, #1, {x}, c:d, f*")
    assert not errors(root)
    assert len(LeRobotDataset("me/mine", root=root, video_backend="pyav")) == sum_frames(root)


BY_BOTH = ["more episodes", "no tasks", "tasks in a column", "no spread", "a pointer for rows"]


@pytest.mark.parametrize(
    "name",
    # The others take three minutes, and differ in the finding alone, which is held above.
    [name if name in BY_BOTH else pytest.param(name, marks=pytest.mark.exhaustive) for name in CONTRADICTIONS],
)
def test_both_commands_refuse_it(name: str, recording: Path) -> None:
    change, words = CONTRADICTIONS[name]
    change(recording)
    if name in BY_BOTH:
        refused(raw(recording), "mine", words)
    else:
        refused(raw(recording), "mine")  # a table's cells may break the words
        refused(raw(recording), words, by_data_check=False)


@pytest.mark.exhaustive  # as above
@pytest.mark.parametrize("name", OLD)
def test_both_commands_refuse_older_formats(name: str, recording: Path, tmp_path: Path) -> None:
    old = as_old(recording, tmp_path / "old", episodes=2)
    change, words = OLD[name]
    change(old)
    refused(raw(old), "mine", *(word.format(root=old) for word in words))


@pytest.mark.exhaustive  # as above
@pytest.mark.parametrize("name", NOT_OLD)
def test_both_commands_refuse_other_versions(name: str, recording: Path) -> None:
    change, words = NOT_OLD[name]
    change(recording)
    refused(raw(recording), "mine")
    refused(raw(recording), words, by_data_check=False)


def test_the_client_whose_statistics_would_spoil_all_is_named_itself(recording: Path, tmp_path: Path) -> None:
    good = first_episodes(shipped(tmp_path / "good"), 4)
    clients = [
        {"name": name, "repo_id": "me/x", "root": str(root)} for name, root in (("good", good), ("bad", recording))
    ]
    statistic("std", lambda old: old * math.nan)(recording)
    assert [item.dataset for item in errors(recording, clients=clients)] == ["bad"]


# --- what must stay accepted -------------------------------------------------------------------------------------


def several_files(root: Path) -> None:
    """A data file, a video and a table of episodes for each episode."""
    old = as_old(root, root.parent / "old")
    shutil.rmtree(root)
    convert_dataset("me/mine", root=old, push_to_hub=False, data_file_size_in_mb=1e-9, video_file_size_in_mb=1e-9)
    old.rename(root)
    (table,) = (root / "meta" / "episodes").rglob("*.parquet")
    rows = pq.read_table(table)
    for number in range(len(rows)):
        pq.write_table(rows.slice(number, 1), table.with_name(f"file-{number:03d}.parquet"))
    assert len(list((root / "data").rglob("*.parquet"))) == len(list((root / "videos" / FRONT).rglob("*.mp4"))) == 4


def converted(root: Path) -> None:
    old = as_old(root, root.parent / "old", images=True)
    shutil.rmtree(root)
    convert_dataset("me/mine", root=old, push_to_hub=False)
    old.rename(root)


def encoded(codec: str) -> Change:
    def encode(root: Path) -> None:
        for path in sorted((root / "videos").rglob("*.mp4")):
            key = path.relative_to(root / "videos").parts[0]
            pictures = np.random.default_rng(0).integers(0, 255, (sum_frames(root), 64, 64, 3)).astype(np.uint8)
            starts = np.cumsum([0, *pq.read_table(table_of(root))["length"].to_pylist()[:-1]]) / 25
            edit_episodes(root, lambda rows, key=key, at=starts: with_column(rows, f"videos/{key}/from_timestamp", at))  # type: ignore[misc]
            path.unlink()
            video(path, pictures, 25, codec)

    return encode


def table_of(root: Path) -> Path:
    return next((root / "meta" / "episodes").rglob("*.parquet"))


def sum_frames(root: Path) -> int:
    return int(json.loads((root / INFO).read_text())["total_frames"])


def other_tasks(root: Path) -> None:
    table = pandas.DataFrame({"task_index": [0, 1]}, index=pandas.Index(["Pick it up.", "Stell es hin."], name="task"))
    table.to_parquet(root / TASKS)
    info(total_tasks=2)(root)
    edit_rows(
        root, lambda rows: with_column(rows, "task_index", [int(e > 1) for e in rows["episode_index"].to_pylist()])
    )


def more_columns(root: Path) -> None:
    columns = {
        "next.reward": (pa.float32(), 0.5, {"dtype": "float32", "shape": [1], "names": None}),
        "next.done": (pa.bool_(), False, {"dtype": "bool", "shape": [1], "names": None}),
        "comment": (pa.string(), "fine", {"dtype": "string", "shape": [1], "names": None}),
        "observation.matrix": (
            pa.list_(pa.list_(pa.float32())),
            [[1.0, 2.0], [3.0, 4.0]],
            {"dtype": "float32", "shape": [2, 2], "names": None},
        ),
    }
    for name, (kind, value, described) in columns.items():
        edit_rows(root, lambda rows, n=name, k=kind, v=value: rows.append_column(n, pa.array([v] * len(rows), type=k)))  # type: ignore[misc]
        edit_info(root, lambda content, n=name, d=described: content["features"].update({n: d}))  # type: ignore[misc]
    record_statistics(root, json.loads((root / INFO).read_text())["features"])


def as_links(root: Path) -> None:
    """As the hub's cache keeps files: by digest, and a folder of links to them."""
    blobs = root.parent / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(path for path in root.rglob("*") if path.is_file())):
        path.rename(blobs / str(number))
        path.symlink_to(blobs / str(number))


def retyped(kind: pa.DataType) -> Change:
    return lambda root: edit_rows(root, lambda rows: with_column(rows, STATE, rows[STATE].to_pylist(), kind))


def without_statistics(root: Path) -> None:
    names = [f"stats/{key}/{name}" for key in (FRONT, WRIST) for name in ("min", "max", "mean", "std", "count")]
    names += [
        f"stats/{key}/q{share}" for key in (STATE, ACTION, ENVIRONMENT) for share in ("01", "10", "50", "90", "99")
    ]
    edit_episodes(root, lambda table: table.drop_columns(names))
    (root / "meta" / "stats.json").unlink()


def unbiased(root: Path) -> None:
    statistic("std", lambda old: old * math.sqrt(rows_of(root, 1) / (rows_of(root, 1) - 1)))(root)


def rows_of(root: Path, number: int) -> int:
    return int(pq.read_table(table_of(root))["length"].to_pylist()[number])


def bare_info(root: Path) -> None:
    kept = ("codebase_version", "fps", "features", "total_episodes", "total_frames", "total_tasks")
    path = root / INFO
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key in kept}))


def no_names(root: Path) -> None:
    edit_info(root, lambda content: [value.pop("names", None) for value in content["features"].values()])


def other_files(root: Path) -> None:
    for name in ("README.md", ".gitattributes", ".cache/huggingface/x", "images/left.png", "meta/notes.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")


def moved(name: str) -> Change:
    def move(root: Path) -> None:
        root.rename(root.parent / "elsewhere")
        (root.parent / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(root.parent / "elsewhere", root.parent / name)
        root.symlink_to(root.parent / name)

    return move


def row_groups(root: Path) -> None:
    pq.write_table(pq.read_table(root / DATA), root / DATA, row_group_size=7)


def finders(root: Path) -> None:
    for folder in ("", "meta", "meta/episodes", "data", "data/chunk-000", "videos"):
        (root / folder / ".DS_Store").write_bytes(MAC)


def without_quantiles(root: Path) -> None:
    def drop(table: pa.Table) -> pa.Table:
        return table.drop_columns([name for name in table.column_names if re.fullmatch(r"stats/.*/q\d+", name)])

    edit_episodes(root, drop)


def two_chunks(root: Path) -> None:
    rows = pq.read_table(root / DATA)
    later = pa.array(rows["episode_index"].to_numpy() >= 2)
    edit_rows(root, lambda rows: rows.filter(pa.array(rows["episode_index"].to_numpy() < 2)))
    (root / "data" / "chunk-001").mkdir()
    pq.write_table(rows.filter(later), root / "data" / "chunk-001" / "file-000.parquet")
    edit_episodes(root, lambda table: with_column(table, "data/chunk_index", [0, 0, 1, 1]))


GOOD: dict[str, Change] = {
    "files that finders leave": finders,
    "no quantiles": without_quantiles,
    "rows in two chunks": two_chunks,
    "as shipped": lambda root: None,
    "an episode of one frame": lambda root: shorten(root, 1, 1),
    "h264": encoded("libx264"),
    "hevc": encoded("libx265"),
    "mpeg4": encoded("mpeg4"),
    "several files": several_files,
    "pictures in the rows": converted,
    "other tasks per episode": other_tasks,
    "more columns": more_columns,
    "links": as_links,
    "a linked folder, unicode and spaces": moved("Küche [3], größer/日本 語"),
    "fps as a float, a robot_type that is no text": info(fps=25.0, robot_type=["so101"]),
    "a list": retyped(pa.list_(pa.float32())),
    "double precision": retyped(pa.list_(pa.float64(), 6)),
    "a large list": retyped(pa.large_list(pa.float32())),
    "names in a list in a list": feature(ACTION, names=[["a", "b", "c", "d", "e", "f"]]),
    "names in groups": feature(ACTION, names={"arm": ["a", "b", "c", "d", "e"], "hand": ["f"]}),
    "names in two arms": feature(ACTION, names={"left": ["a", "b", "c"], "right": ["a", "b", "c"]}),
    "names as places": feature(ACTION, names={name: place for place, name in enumerate("abcdef")}),
    "names as numbers": feature(ACTION, names=[0, 1, 2, 3, 4, 5]),
    "too few names": feature(ACTION, names={"left": ["a", "b"], "right": ["c"]}),
    "too many names": feature(ACTION, names=list("abcdefg")),
    "a text for names": feature(STATE, names="joints"),
    "names null": feature(ACTION, names=None),
    "no names at all": no_names,
    "names of a camera null": feature(FRONT, names=None),
    "no statistics of pictures": without_statistics,
    "a sample's spread": unbiased,
    "no more in info.json than must be": bare_info,
    "other splits": info(splits={"train": "0:3", "val": "3:4"}),
    "splits left behind": info(splits={"train": "0:50"}),
    "unknown keys": info(robot_type=None, license="apache-2.0", total_videos=8),
    "a newer minor version": version("v3.1"),
    "other files": other_files,
    "several row groups": row_groups,
    "no times of ends": lambda root: edit_episodes(root, lambda t: t.drop_columns([f"videos/{FRONT}/to_timestamp"])),
    "a video that no episode names": lambda root: shutil.copy(root / FIRST_VIDEO, root / f"{FIRST_VIDEO[:-5]}9.mp4"),
}


@pytest.mark.parametrize("change", GOOD.values(), ids=GOOD)
def test_what_lerobot_trains_on_is_accepted(change: Change, recording: Path) -> None:
    change(recording)
    before = tree(recording)
    found = errors(recording)
    assert not found, list(map(str, found))
    assert tree(recording) == before
    meta = open_metadata(config(recording).clients[0])
    assert {ACTION, STATE} <= training_statistics(meta, 1).keys()
    frames = LeRobotDataset("me/mine", root=recording, video_backend="pyav")
    for number in (0, len(frames) - 1):
        assert isinstance(frames[number]["task"], str)


@pytest.mark.parametrize(("row", "every_frame"), [(0, False), (40, True)])
def test_a_picture_in_the_rows_that_is_none(row: int, every_frame: bool, recording: Path) -> None:
    converted(recording)
    edit_cell(recording, WRIST, row, {"bytes": b"no picture", "path": None})
    (found,) = report(config(recording), every_frame=every_frame).of("error")
    assert_said(found, rf"video frames: {WRIST}, episode \d: frame \d+ of .*{DATA} cannot be decoded")


def test_no_camera_but_an_environments_state(recording: Path) -> None:
    edit_info(recording, lambda content: [content["features"].pop(key) for key in (FRONT, WRIST)])
    shutil.rmtree(recording / "videos")
    policy = {"type": "act", "device": "cpu", "overrides": {"pretrained_backbone_weights": None}}
    assert not errors(recording, policy=policy, peft={"enabled": False})


# --- anything else -----------------------------------------------------------------------------------------------

ODD: tuple[Any, ...] = (None, True, -1, 0, 7, 2.5, math.nan, "x", "", [], [[1]], {}, {"a": 1}, 10**30, [None])
CELLS: tuple[Any, ...] = (
    None,
    -1,
    0,
    1,
    999,
    10**12,
    math.nan,
    0.5,
    "x",
    [],
    [1.0],
    [math.nan] * 6,
    [0.0] * 6,
    [None] * 6,
    [1.0] * 7,
)
SEEDS = 36


def paths(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every key of a JSON value, the outer ones first."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from paths(value, (*path, key))


def mutate_info(root: Path, draw: random.Random) -> str:
    content = json.loads((root / INFO).read_text())
    *outer, last = draw.choice(list(paths(content)))
    node = content
    for key in outer:
        node = node[key]
    if draw.random() < 0.3:
        del node[last]
        what = "removed"
    else:
        node[last] = draw.choice(ODD)
        what = repr(node[last])
    (root / INFO).write_text(json.dumps(content))
    return f"{INFO}: {[*outer, last]} {what}"


def mutate_table(pattern: str) -> Callable[[Path, random.Random], str]:
    def mutate(root: Path, draw: random.Random) -> str:
        path = next(root.glob(pattern))
        table = pq.read_table(path)
        name, row = draw.choice(table.column_names), draw.randrange(len(table))
        what = draw.choice(["cell"] * 5 + ["column", "row", "twice"])
        if what == "cell":
            values = table[name].to_pylist()
            values[row] = draw.choice(CELLS)
            what += f" {values[row]!r}"
            try:
                table = with_column(table, name, values)
            except (pa.ArrowException, TypeError, OverflowError):
                table = with_column(table, name, [str(value) for value in values], pa.string())
        elif what == "column":
            table = table.drop_columns([name])
        elif what == "row":
            table = pa.concat_tables([table.slice(0, row), table.slice(row + 1)])
        else:
            table = pa.concat_tables([table, table.slice(row, 1)])
        pq.write_table(table, path)
        return f"{pattern}: {name}, row {row}, {what}"

    return mutate


MUTATIONS = (
    *(mutate_info, mutate_info, mutate_table(f"{TASKS}")),
    *(mutate_table(f"{EPISODES}/*/*.parquet"), mutate_table("data/*/*.parquet")),
)


@pytest.fixture(scope="module")
def two_episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return first_episodes(shipped(tmp_path_factory.mktemp("two") / "recording"), 2)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_any_change_is_refused_by_name_or_read_by_lerobot(seed: int, two_episodes: Path, tmp_path: Path) -> None:
    logging.getLogger("lerobot").setLevel(logging.ERROR)
    root, draw = tmp_path / "recording", random.Random(seed)
    shutil.copytree(two_episodes, root)
    change = draw.choice(MUTATIONS)(root, draw)
    try:
        found = errors(root)
    except BadInputError:  # the policy cannot be made for it
        return
    if found:
        assert any(place in str(found[0]) for place in ("meta/", "data/", "policy")), f"{change}: {found[0]}"
        return
    frames = LeRobotDataset("me/mine", root=root, video_backend="pyav")
    assert len(frames) == sum_frames(two_episodes), change
    for number in range(len(frames)):
        assert isinstance(frames[number]["task"], str), change
