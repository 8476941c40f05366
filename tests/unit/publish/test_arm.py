"""The line by which a policy comes onto an arm: LeRobot's own parser takes it."""

import json
import shlex
import sys
from pathlib import Path

import pytest

from zk0.config.recordings import ClientConfig
from zk0.publish.arm import rollout_line

CAMERA = "observation.images."


def client(root: Path | None = None, **renames: str) -> ClientConfig:
    renamed = {CAMERA + old: CAMERA + new for old, new in renames.items()}
    return ClientConfig.model_validate(
        {"name": "anna", "repo_id": "me/anna", "root": root and str(root), "rename_map": renamed}
    )


def words(line: str) -> dict[str, str]:
    return dict(word.removeprefix("--").split("=", 1) for word in shlex.split(line)[1:])


def test_cameras_are_those_of_the_recordings_under_their_own_names(tmp_path: Path) -> None:
    features = {
        f"{CAMERA}top": {"shape": [720, 1280, 3], "names": ["height", "width", "channels"]},
        f"{CAMERA}wrist": {"shape": [480, 640, 3], "names": None},
    }
    info = {"fps": 25, "robot_type": "so101_follower", "features": features | {"action": {}}}
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "info.json").write_text(json.dumps(info))
    said = words(rollout_line(client(tmp_path, top="camera1", wrist="camera2"), Path("/my policy")))
    assert json.loads(said["robot.cameras"]) == {
        "top": {"type": "opencv", "index_or_path": 0, "width": 1280, "height": 720, "fps": 25},
        "wrist": {"type": "opencv", "index_or_path": 1, "width": 640, "height": 480, "fps": 25},
    }
    assert json.loads(said["rename_map"]) == {f"{CAMERA}top": f"{CAMERA}camera1", f"{CAMERA}wrist": f"{CAMERA}camera2"}
    assert (said["robot.type"], said["policy.path"], said["fps"]) == ("so101_follower", "/my policy", "25")


def test_recordings_that_are_elsewhere_are_told_by_their_rename_map() -> None:
    said = words(rollout_line(client(front="camera1"), Path("p")))
    assert list(json.loads(said["robot.cameras"])) == ["front"]
    assert "rename_map" not in words(rollout_line(client(), Path("p")))


@pytest.mark.slow
def test_lerobot_takes_the_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Dry: its own parser and validation, with the policy's config, on the arm that the recordings were made with."""
    import lerobot.scripts.lerobot_rollout  # noqa: F401 - registers the robots and cameras
    from lerobot.configs import parser
    from lerobot.rollout.configs import RolloutConfig

    from zk0.config import resolve_path

    kitchen = client(resolve_path("asset:datasets/kitchen"), front="camera1")
    monkeypatch.setattr(sys, "argv", shlex.split(rollout_line(kitchen, resolve_path("asset:base"))))
    taken: list[RolloutConfig] = []

    def dry(config: RolloutConfig) -> None:
        taken.append(config)

    dry.__annotations__["config"] = RolloutConfig
    parser.wrap()(dry)()
    [config] = taken
    assert config.policy.type == "smolvla"
    assert type(config.robot).__name__ == "SOFollowerRobotConfig"
    assert set(config.robot.cameras) == {"front", "wrist"}
    assert config.rename_map == {f"{CAMERA}front": f"{CAMERA}camera1"}
