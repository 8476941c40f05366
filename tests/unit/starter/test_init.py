"""`zk0 init`: what it writes of recordings is a config that loads, with the cameras where they belong."""

import json
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from zk0.cli import app
from zk0.config import load_config, resolve_path
from zk0.errors import ConfigError, DatasetError, PolicyError, Zk0Error
from zk0.starter import recordings
from zk0.starter.draft import rename_map

SMOLVLA = [f"observation.images.camera{number}" for number in (1, 2, 3)]
ODD = 'Anna\'s "Küche" $(rm)\n[[x]]'


def recording(root: Path, cameras: tuple[str, ...] = ("front", "wrist"), episodes: int = 5) -> Path:
    features = {f"observation.images.{name}": {"dtype": "video"} for name in cameras} | {"action": {"dtype": "float32"}}
    info = {"total_episodes": episodes, "fps": 30, "robot_type": f"so101 {ODD}", "features": features}
    (root / "meta").mkdir(parents=True)
    (root / "meta" / "info.json").write_text(json.dumps(info))
    return root


def policy(root: Path, cameras: list[str]) -> Path:
    root.mkdir()
    features = {name: {"type": "VISUAL", "shape": [3, 64, 64]} for name in cameras}
    (root / "config.json").write_text(json.dumps({"input_features": features | {"s": {"type": "STATE"}}}))
    return root


def init(*words: object) -> str:
    done = CliRunner().invoke(app, ["init", *map(str, words)])
    if isinstance(done.exception, Zk0Error):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_recordings_below_a_folder_become_clients(tmp_path: Path) -> None:
    recording(tmp_path / "recordings" / "Kitchen Arm")
    recording(tmp_path / "recordings" / "more" / ODD, ("top", "gripper_cam", "side", "far"), episodes=2)
    base = policy(tmp_path / "base", SMOLVLA)
    file = tmp_path / "my.toml"
    init(tmp_path / "recordings", "--out", file, "--policy", base)
    text = file.read_text()
    config = load_config(file)
    assert [client.name for client in config.clients] == ["kitchen-arm", "anna-s-k-che-rm-x"]
    assert tomllib.loads(text)["clients"][0]["root"] == "recordings/Kitchen Arm"
    assert config.clients[0].rename_map == {
        "observation.images.front": "observation.images.camera1",
        "observation.images.wrist": "observation.images.camera2",
    }
    assert list(config.clients[1].rename_map.values()) == SMOLVLA
    assert "observation.images.gripper_cam" not in config.clients[1].rename_map, "the arm's own camera comes last"
    assert "# the base has cameras that this recording lacks: observation.images.camera3" in text
    assert "# not used, the base has no camera for it: observation.images.gripper_cam" in text
    assert config.evaluation.holdout_episodes == 1, "two episodes: one to train on, one to judge by"
    with pytest.raises(ConfigError, match="exists; choose a file that does not"):
        init(tmp_path / "recordings", "--out", file)


def test_the_shipped_recordings_need_no_rename(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    init(resolve_path("asset:datasets"), "--out", file, "--policy", "asset:base")
    config = load_config(file)
    assert len(config.clients) == 5
    assert all(client.rename_map == {} for client in config.clients)


@pytest.mark.parametrize(
    ("cameras", "policy", "renames"),
    [
        (["front", "wrist"], ["front", "wrist"], {}),
        (["wrist", "front"], ["camera1", "camera2"], {"front": "camera1", "wrist": "camera2"}),
        (["front_cam", "x"], ["x", "front_camera"], {"front_cam": "front_camera"}),
        (["top"], [], {}),
        ([], ["camera1"], {}),
    ],
)
def test_a_camera_goes_by_its_name_then_by_order(
    cameras: list[str], policy: list[str], renames: dict[str, str]
) -> None:
    assert rename_map(cameras, policy) == renames


def test_what_is_no_recording_or_no_policy_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="no recording is there"):
        init(tmp_path / "empty", "--out", tmp_path / "a.toml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recordings, "_usual", lambda: ["."])
    with pytest.raises(DatasetError, match="no recording is found here"):
        init("--out", tmp_path / "a.toml")
    recording(tmp_path / "one")
    with pytest.raises(PolicyError, match=r"has no config\.json"):
        init("--out", tmp_path / "a.toml", "--policy", tmp_path / "empty")
    assert not (tmp_path / "a.toml").exists()


def test_a_base_that_cannot_be_read_now_leaves_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(recordings, "_from_hub", away)
    recording(tmp_path / "one")
    init(tmp_path / "one", "--out", tmp_path / "my.toml")
    assert "the base's cameras could not be read now" in (tmp_path / "my.toml").read_text()
    with pytest.raises(DatasetError, match="cannot be fetched from the hub"):
        init("me/two", "--out", tmp_path / "other.toml")
