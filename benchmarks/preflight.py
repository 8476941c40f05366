"""How long the checks of recordings take: one after the other, side by side, and when nothing has changed.

`uv run python -m benchmarks.preflight` makes four clients' recordings (or takes those of a config), looks at every
frame in all three ways in one go, and ends with PASS where all three found the same.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from zk0.config import RunConfig, load_config
from zk0.executors import calls
from zk0.executors.process import ProcessExecutor
from zk0.executors.side_by_side import examine_all
from zk0.files.cache import FOLDER_VARIABLE
from zk0.preflight.between import together
from zk0.preflight.records import Examined

CLIENTS = 4
CAMERAS = ("front", "wrist")
JOINTS = ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"]


def main(arguments: Sequence[str] | None = None) -> int:
    found_by_name = import_module("benchmarks.preflight")  # by a worker, to which this module is no __main__
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", nargs="?", help="a config whose datasets are looked at; made ones when left out")
    parser.add_argument("--episodes", type=int, default=2, help="of each dataset that is made")
    parser.add_argument("--frames", type=int, default=100, help="of each episode that is made")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="zk0-preflight-") as scratch:
        os.environ[FOLDER_VARIABLE] = str(Path(scratch) / "cache")  # before the fork server begins
        ours = None if options.config else made(Path(scratch), options.episodes, options.frames)
        config = ours or load_config(options.config)
        executor = ProcessExecutor(config.executor)
        config = executor.call(calls.settle, config)  # and all imports are done
        ways: dict[str, Callable[[], list[Examined]]] = {
            "one after the other": lambda: executor.call(found_by_name.serially, config),
            "side by side": lambda: examine_all(config, every_frame=True),
            "nothing has changed": lambda: examine_all(config, every_frame=True),
        }
        found, seconds = {}, {}
        for way, look in ways.items():
            started = time.monotonic()
            found[way] = together(config, look())
            seconds[way] = time.monotonic() - started
            share = seconds[way] / seconds["one after the other"]
            print(f"{way:<20} {seconds[way]:7.1f} s  {share:6.1%}", flush=True)
    same = all(item == found["side by side"] for item in found.values())
    print(f"{len(os.sched_getaffinity(0))} cores; {'PASS: the same findings' if same else 'FAIL: the findings differ'}")
    return 0 if same else 1


def serially(config: RunConfig) -> list[Examined]:
    """Every dataset in this process, without any memory of them."""
    os.environ[FOLDER_VARIABLE] = os.devnull
    from zk0.preflight.datasets import examine

    return [examine(config, dataset, every_frame=True, fresh=True) for dataset in config.datasets]


def made(folder: Path, episodes: int, frames: int) -> RunConfig:
    """A config of clients with recordings of two cameras of 640 x 480 at 30 fps, by LeRobot's own recorder."""
    for number in range(CLIENTS):
        record(folder / str(number), episodes, frames, np.random.default_rng(number))
    names = {f"observation.images.{camera}": f"observation.images.{camera}" for camera in CAMERAS}
    clients = [
        {
            "name": f"client-{number}",
            "repo_id": f"made/{number}",
            "root": str(folder / str(number)),
            "rename_map": names,
        }
        for number in range(CLIENTS)
    ]
    return load_config(
        {
            "clients": clients,
            "policy": {"path": "asset:base", "device": "cpu"},
            "evaluation": {"holdout_episodes": 1},
        }
    )


def record(root: Path, episodes: int, frames: int, rng: np.random.Generator) -> None:
    """Joints that move, and pictures with something in them."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    vector = {"dtype": "float32", "shape": (len(JOINTS),), "names": JOINTS}
    picture = {"dtype": "video", "shape": (480, 640, 3), "names": ["height", "width", "channels"]}
    features: dict[str, dict[str, Any]] = {"action": vector, "observation.state": vector}
    features |= {f"observation.images.{camera}": picture for camera in CAMERAS}
    dataset = LeRobotDataset.create("made/made", fps=30, features=features, root=root, use_videos=True)
    scene = rng.integers(0, 255, (480 + frames, 640, 3), dtype=np.uint8)
    for _ in range(episodes):
        path = np.cumsum(rng.normal(0, 1, (frames + 1, len(JOINTS))), axis=0).astype(np.float32)
        for step in range(frames):
            frame = {"observation.state": path[step], "action": path[step + 1], "task": "move"}
            frame |= {f"observation.images.{camera}": scene[step : step + 480] for camera in CAMERAS}
            dataset.add_frame(frame)
        dataset.save_episode()
    dataset.finalize()


if __name__ == "__main__":
    sys.exit(main())
