"""Records demonstrations of the scripted expert as a LeRobot v3 video dataset."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from numpy.typing import NDArray

from zk0.sim.env import CAMERAS, FPS, IMAGE_SIZE, JOINTS, OBS_TYPES, Observation, SO101PickEnv
from zk0.sim.expert import Expert
from zk0.sim.settings import get_setting

_JITTER_DEG = 0.3  # white noise on every executed joint target
_DRIFT_DEG = 1.5  # slow noise (standard deviation) on the way to the cube
_DRIFT_MEMORY = 0.8
_MAX_TRIES_PER_EPISODE = 10

Frame = dict[str, Any]


def dataset_features(image_size: int = IMAGE_SIZE, cameras: Sequence[str] = CAMERAS) -> dict[str, dict[str, Any]]:
    """LeRobot's description of the recorded features."""
    joints = [f"{joint}.pos" for joint in JOINTS]
    features: dict[str, dict[str, Any]] = {
        "action": {"dtype": "float32", "shape": (len(JOINTS),), "names": joints},
        "observation.state": {"dtype": "float32", "shape": (len(JOINTS),), "names": joints},
        "observation.environment_state": {
            "dtype": "float32",
            "shape": (7,),
            "names": ["x", "y", "z", "qw", "qx", "qy", "qz"],
        },
    }
    for camera in cameras:
        features[f"observation.images.{camera}"] = {
            "dtype": "video",
            "shape": (image_size, image_size, 3),
            "names": ["height", "width", "channels"],
        }
    return features


def _execution_noise(steps: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Noise (steps, 6) in degrees added to the executed, not to the recorded actions; none on the gripper.

    The arm drifts off the plan on its way to the cube, so the recordings also show how to come back to it.
    """
    noise = rng.normal(0.0, _JITTER_DEG, (steps, len(JOINTS)))
    drift: NDArray[np.float64] = np.zeros(len(JOINTS))
    for step in range(Expert.approach_end):
        innovation = rng.normal(0.0, _DRIFT_DEG * np.sqrt(1 - _DRIFT_MEMORY**2), len(JOINTS))
        drift = _DRIFT_MEMORY * drift + innovation
        noise[step] += drift * (1 - step / Expert.approach_end)
    noise[:, -1] = 0.0
    return noise.astype(np.float32)


def _frame(observation: Observation, action: NDArray[np.float32], task: str) -> Frame:
    frame: Frame = {
        "observation.state": observation["agent_pos"],
        "observation.environment_state": observation["environment_state"],
        "action": action,
        "task": task,
    }
    for camera, image in observation.get("pixels", {}).items():
        frame[f"observation.images.{camera}"] = image
    return frame


def demonstrate(env: SO101PickEnv, seed: int, *, noise: bool = True) -> list[Frame] | None:
    """Lets the expert do one episode; returns its frames, or None if it did not lift the cube."""
    observation, _ = env.reset(seed=seed)
    plan = Expert(env.simulation).plan()
    deviation = _execution_noise(len(plan), np.random.default_rng(seed)) if noise else np.zeros_like(plan)
    frames: list[Frame] = []
    for action, error in zip(plan, deviation, strict=True):
        frames.append(_frame(observation, action, env.task))
        observation, _, terminated, truncated, info = env.step(action + error)
        if info["is_success"]:
            return frames
        if terminated or truncated:
            break
    return None


def record(setting: str, episodes: int, root: str | Path, seed: int = 0, obs_type: str = OBS_TYPES[0]) -> Path:
    """Records demonstrations of the scripted expert in a setting and returns the dataset's folder.

    Args:
        setting: name of the setting, a key of `zk0.sim.SETTINGS` or `ZONES`.
        episodes: number of (successful) episodes to keep; an unsuccessful one is dropped and the next seed is tried.
        root: folder of the new LeRobot v3 dataset; it must not exist yet.
        seed: seed of the first episode; each further try takes the next integer.
        obs_type: what is recorded beside the actions, one of `zk0.sim.env.OBS_TYPES`.

    Raises:
        ValueError: for an unknown setting or obs_type, fewer than one episode, a negative seed or an existing folder.
        RuntimeError: if the expert fails far too often.
    """
    get_setting(setting)
    root = Path(root)
    if episodes < 1:
        raise ValueError(f"episodes={episodes} is too few; record at least 1")
    if seed < 0:
        raise ValueError(f"seed={seed} is negative; use 0 or more")
    if root.exists():
        raise ValueError(f"root={str(root)!r} exists already; choose a new folder or remove it first")
    env = SO101PickEnv(setting, obs_type=obs_type)
    dataset = LeRobotDataset.create(
        repo_id=f"zk0/{setting}",
        fps=FPS,
        features=dataset_features(cameras=env.cameras),
        root=root,
        robot_type="so101_follower",
        use_videos=bool(env.cameras),
    )
    try:
        _record_episodes(env, dataset, episodes, seed)
    finally:
        dataset.finalize()
        env.close()
    _tidy(root)
    return root


def _tidy(root: Path) -> None:
    """Makes the same recording the same bytes, readable like its other files.

    LeRobot writes the statistics in the order of a set, and moves the videos from private temporary files.
    """
    stats = root / "meta" / "stats.json"
    stats.write_text(json.dumps(json.loads(stats.read_text()), indent=4, sort_keys=True))
    for video in root.rglob("*.mp4"):
        video.chmod(stats.stat().st_mode)


def _record_episodes(env: SO101PickEnv, dataset: LeRobotDataset, episodes: int, seed: int) -> None:
    last = seed + episodes * _MAX_TRIES_PER_EPISODE
    for candidate in range(seed, last):
        frames = demonstrate(env, candidate)
        if frames is None:
            continue
        for frame in frames:
            dataset.add_frame(frame)
        dataset.save_episode()
        if dataset.num_episodes == episodes:
            return
    raise RuntimeError(
        f"only {dataset.num_episodes} of {episodes} episodes succeeded in {last - seed} tries; check the setting's zone"
    )
