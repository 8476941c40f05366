"""Data checks: real LeRobot datasets, broken one fault at a time; each fault is found under its own name."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from tests.robots import slower
from zk0.config import RunConfig, resolve_path
from zk0.data import videos
from zk0.data.findings import DataFinding
from zk0.errors import BadInputError, ConfigError, DatasetError
from zk0.preflight.checks import check_data, preflight
from zk0.preflight.datasets import report

pytestmark = pytest.mark.slow
MakeConfig = Callable[..., RunConfig]
STATE, ACTION = "observation.state", "action"
FRONT, WRIST = "observation.images.front", "observation.images.wrist"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A private copy of the smallest shipped dataset (12 episodes), to be broken."""
    target = tmp_path / "dataset"
    shutil.copytree(resolve_path("asset:datasets/unseen"), target)
    return target


@pytest.fixture
def config(small_config: MakeConfig, dataset: Path) -> RunConfig:
    return with_root(small_config, dataset)


def with_root(make: MakeConfig, root: Path, **changes: object) -> RunConfig:
    clients = [{"name": "mine", "repo_id": "zk0/mine", "root": str(root)}]
    return make(clients=clients, federation__min_train_clients=1, **changes)


def edit_info(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = root / "meta" / "info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


def edit_rows(root: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    path = next((root / "data").rglob("*.parquet"))
    pq.write_table(change(pq.read_table(path)), path)


def edit_values(root: Path, feature: str, change: Callable[[np.ndarray], None]) -> None:
    """Change a feature's numbers, shape (rows, dimensions) or (rows,), in place."""

    def edit(table: pa.Table) -> pa.Table:
        values = np.array(table[feature].to_pylist())
        change(values)
        field = table.schema.field(feature)
        return table.set_column(table.column_names.index(feature), field, pa.array(values.tolist(), type=field.type))

    edit_rows(root, edit)


def verdicts(config: RunConfig, verdict: str) -> dict[str, DataFinding]:
    return {item.check: item for item in check_data(config).findings if item.verdict == verdict}


def doubled_rows(root: Path) -> None:
    edit_rows(root, lambda table: pa.concat_tables([table, table]))


def doubled_times(root: Path) -> None:
    def freeze(times: np.ndarray) -> None:
        times[5] = times[4]

    edit_values(root, "timestamp", freeze)


def stored_twice(root: Path) -> None:
    for feature in (STATE, ACTION):

        def hold(values: np.ndarray) -> None:
            values[1::2] = values[:-1:2]

        edit_values(root, feature, hold)


def lost_rows(root: Path) -> None:
    edit_rows(root, lambda table: table.slice(0, len(table) - 3))


def wrong_index(root: Path) -> None:
    def shift(index: np.ndarray) -> None:
        index[100:] += 1

    edit_values(root, "index", shift)


def wrong_frame_index(root: Path) -> None:
    def swap(index: np.ndarray) -> None:
        index[[3, 4]] = index[[4, 3]]

    edit_values(root, "frame_index", swap)


def wrong_fps(root: Path) -> None:
    edit_info(root, lambda info: info.update(fps=24))


def late_episodes(root: Path) -> None:
    edit_values(root, "timestamp", lambda times: np.add(times, 0.04, out=times))


def cut_video(root: Path) -> None:
    path = next((root / "videos" / FRONT).rglob("*.mp4"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def missing_video(root: Path) -> None:
    next((root / "videos" / WRIST).rglob("*.mp4")).unlink()


def wrong_shape(root: Path) -> None:
    edit_info(root, lambda info: info["features"][STATE].update(shape=[7]))


def not_a_number(root: Path) -> None:
    def spoil(values: np.ndarray) -> None:
        values[7, 2] = np.nan

    edit_values(root, ACTION, spoil)


def dead_arm(root: Path) -> None:
    edit_values(root, STATE, lambda values: np.copyto(values, values[:1]))


def wrapped_encoder(root: Path) -> None:
    """The wrist passes the end of its encoder in every episode, forth and back."""

    def wrap(values: np.ndarray) -> None:
        values[2::12, 4] += 360
        values[3::12, 4] += 360

    edit_values(root, STATE, wrap)


ERRORS: dict[Callable[[Path], None], tuple[str, str]] = {
    doubled_rows: ("doubled frames", r"444 of 888 rows"),
    doubled_times: ("doubled frames", r"1 of 444 rows"),
    stored_twice: ("doubled frames", r"\d+ frames are exactly those before, 49% .* stored twice"),
    lost_rows: ("rows", r"441 rows, but info.json says 444 frames"),
    wrong_index: ("indices", r"101 in row 100"),
    wrong_frame_index: ("indices", r"frame_index is 4 in row 3"),
    wrong_fps: ("timestamps", r"off 1/fps by 0\.00\d+ s, more than data.tolerance_s = 0.0001"),
    late_episodes: ("timestamps", r"begins at 0\.04\d* s"),
    cut_video: ("video frames", rf"{FRONT}, episode \d+: .*\.mp4"),
    missing_video: ("files", r"\.mp4 is missing or empty"),
    wrong_shape: ("dimensions", r"has 6 numbers in a row, info.json says 7"),
    not_a_number: ("values", r"NaN or infinity in 1 rows, first in row 7"),
    dead_arm: ("constant joints", r"no dimension of 'observation.state' moves"),
    wrapped_encoder: ("jumps", r"\d+ of the state and 0 of the action, first wrist_roll.pos .* by 3\d\d"),
}


@pytest.mark.parametrize("break_it", ERRORS, ids=lambda fault: fault.__name__)
def test_a_fault_is_refused_under_its_name(break_it: Callable[[Path], None], dataset: Path, config: RunConfig) -> None:
    check, seen = ERRORS[break_it]
    break_it(dataset)
    found = verdicts(config, "error")
    assert check in found
    assert found[check].remedy
    with pytest.raises(DatasetError, match=rf"dataset 'mine': {check}: .*{seen}.*; [\w`]"):
        preflight(config)


def test_the_shipped_datasets_pass() -> None:
    from zk0.config import load_config

    found = check_data(load_config("sim"))
    assert {item.verdict for item in found.findings} == {"ok"}
    assert len({item.dataset for item in found.findings}) == 5
    seen = {item.dataset: item.seen for item in found.findings if item.check == "video frames"}
    assert seen == {name: f"{2 * frames} decoded" for name, frames in found.frames.items()}


def test_a_constant_joint_is_a_warning_and_training_goes_on(dataset: Path, config: RunConfig) -> None:
    for feature in (STATE, ACTION):
        edit_values(dataset, feature, lambda values: values[:, 5].fill(3.0))
    warning = verdicts(config, "warning")["constant joints"]
    assert "gripper.pos (observation.state), gripper.pos (action)" in warning.seen
    assert [line for line in preflight(config).warnings if "constant joints: never move: gripper.pos" in line]


def test_names_of_another_number_are_a_warning_and_training_goes_on(dataset: Path, config: RunConfig) -> None:
    """LeRobot never counts them."""
    edit_info(dataset, lambda info: info["features"][ACTION].update(names=["a", "b"]))
    edit_info(dataset, lambda info: info["features"][STATE].update(names="joints"))
    seen = verdicts(config, "warning")["dimensions"].seen
    assert seen.startswith("'observation.state' has 6 numbers in a row, and info.json names 1; 'action' has 6 numbers")
    said = "joints have no names: their order cannot be compared"
    assert [line for line in preflight(config).warnings if said in line]


def test_a_single_jump_is_a_warning(dataset: Path, config: RunConfig) -> None:
    def glitch(values: np.ndarray) -> None:
        values[50, 0] += 300

    edit_values(dataset, STATE, glitch)
    assert "2 of the state and 0 of the action, first shoulder_pan.pos" in verdicts(config, "warning")["jumps"].seen


def test_a_few_lost_video_packets_are_found_by_decoding_every_frame(dataset: Path, config: RunConfig) -> None:
    path = next((dataset / "videos" / WRIST).rglob("*.mp4"))
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 3 + 400] = bytes(400)
    path.write_bytes(content)
    found = verdicts(config, "error")["video frames"]
    assert WRIST in found.seen
    assert "frames cannot be decoded, first at" in found.seen


def test_a_video_of_another_rate_is_refused_by_a_run_too(dataset: Path, config: RunConfig) -> None:
    """The first, middle and last frames that a run looks at are there by chance."""
    slower(dataset, 30)
    (found,) = report(config, every_frame=False).of("error")
    assert found.check == "video frames"
    assert "no frame at" in found.seen


def test_a_missing_camera(small_config: MakeConfig, dataset: Path) -> None:
    config = with_root(small_config, dataset)
    for key in (FRONT, WRIST):
        edit_info(dataset, lambda info, key=key: info["features"].pop(key))  # type: ignore[misc]
    found = verdicts(config, "error")
    assert "the policy needs 'observation.images" in found["cameras"].seen
    with pytest.raises(BadInputError, match=r"'mine': cameras: the policy needs 'observation.images"):
        preflight(config)


def test_a_robot_of_other_dimensions(dataset: Path, config: RunConfig) -> None:
    def shorten(table: pa.Table) -> pa.Table:
        values = pa.array([row[:5] for row in table[STATE].to_pylist()], type=pa.list_(pa.float32(), 5))
        return table.set_column(table.column_names.index(STATE), STATE, values)

    edit_rows(dataset, shorten)
    edit_info(dataset, lambda info: info["features"][STATE].update(shape=[5], names=list("abcde")))
    seen = verdicts(config, "error")["policy dimensions"].seen
    assert "has 5 dimensions, but data.normalization = 'base'" in seen, "without these statistics it would be padded"
    with pytest.raises(BadInputError, match=r"'mine': policy dimensions: "):
        preflight(config)


def test_joints_in_another_order(small_config: MakeConfig, dataset: Path) -> None:
    edit_info(dataset, lambda info: info["features"][ACTION]["names"].reverse())
    clients = [
        {"name": "first", "repo_id": "zk0/first", "root": "asset:datasets/unseen"},
        {"name": "mine", "repo_id": "zk0/mine", "root": str(dataset)},
    ]
    config = small_config(clients=clients)
    with pytest.raises(DatasetError, match=r"dataset 'mine': joint names: the order is gripper.pos, .*; the first"):
        preflight(config)


def test_statistics_of_other_rows(small_config: MakeConfig, dataset: Path) -> None:
    edit_values(dataset, ACTION, lambda values: np.add(values, 5, out=values))
    stale = with_root(small_config, dataset, data__normalization="federated")
    with pytest.raises(
        DatasetError,
        match=r"'mine': statistics: .*/meta/episodes: the mean of 'action' in episode 0 is .*, not that of its rows",
    ):
        preflight(stale)
    base = with_root(small_config, dataset)
    assert "'base' does not use them" in verdicts(base, "warning")["statistics"].seen


def test_the_doubled_rows_are_dropped_in_a_copy_and_the_original_stays(
    dataset: Path, config: RunConfig, tmp_path: Path
) -> None:
    whole = next((dataset / "data").rglob("*.parquet")).read_bytes()
    doubled_rows(dataset)
    before = digests(dataset)
    found = check_data(config, tmp_path / "fixed")
    assert {item.verdict for item in found.findings} == {"ok"}
    assert digests(dataset) == before
    copy = tmp_path / "fixed" / "mine"
    assert pq.read_table(next((copy / "data").rglob("*.parquet"))).equals(pq.read_table(pa.BufferReader(whole)))
    assert len(LeRobotDataset("zk0/mine", root=copy, video_backend="pyav")) == 444
    with pytest.raises(ConfigError, match="exists; choose a folder without it"):
        check_data(config, tmp_path / "fixed")


def test_frames_that_were_stored_twice_are_dropped_in_a_copy(small_config: MakeConfig, tmp_path: Path) -> None:
    source = LeRobotDataset("zk0/unseen", root=resolve_path("asset:datasets/unseen"), video_backend="pyav")
    doubled = record_twice(source, tmp_path / "doubled", episodes=4)
    config = with_root(small_config, doubled)
    with pytest.raises(DatasetError, match=r"doubled frames: .* stored twice; `zk0 check-data CONFIG --fix-to"):
        preflight(config)
    found = check_data(config, tmp_path / "fixed")
    assert not found.of("error")
    copy = LeRobotDataset("zk0/mine", root=tmp_path / "fixed" / "mine", video_backend="pyav")
    assert len(copy) == sum(source.meta.episodes["length"][:4])
    for number in (0, 50, len(copy) - 1):
        assert copy[number][ACTION].equal(source[number][ACTION])
        assert copy[number]["timestamp"] == source[number]["timestamp"]
        assert (copy[number][FRONT] - source[number][FRONT]).abs().mean() < 0.05  # encoded twice more


def record_twice(source: LeRobotDataset, root: Path, episodes: int) -> Path:
    """What a recorder leaves whose loop is twice as fast as its robot."""
    keys = (ACTION, STATE, "observation.environment_state", FRONT, WRIST)
    features = {key: source.meta.features[key] for key in keys}
    copy = LeRobotDataset.create("zk0/doubled", source.fps, features, root=root, video_backend="pyav")
    for episode in range(episodes):
        start, end = (source.meta.episodes[episode][f"dataset_{side}_index"] for side in ("from", "to"))
        for number in range(start, end):
            item = source[number]
            frame = {key: item[key].numpy() for key in keys} | {"task": item["task"]}
            for camera in (FRONT, WRIST):
                frame[camera] = (item[camera].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
            for _ in range(2):
                copy.add_frame(dict(frame))  # it takes the task out
        copy.save_episode(parallel_encoding=False)
    copy.finalize()
    return root


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_start_of_a_run_stays_fast(
    small_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Sampling stops at its deadline, whatever is left."""
    monkeypatch.setattr(videos, "VIDEO_SAMPLE_S", 0.0)
    monkeypatch.setenv("ZK0_CACHE", str(tmp_path / "nothing-remembered"))
    found = report(small_config(), every_frame=False)
    assert [item.seen for item in found.findings if item.check == "video frames"] == ["0 decoded", "0 decoded"]
