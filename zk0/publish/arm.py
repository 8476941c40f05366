"""The command line by which LeRobot lets a policy act on a client's arm, with the cameras of its recordings."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zk0.config import resolve_path
from zk0.config.paths import absolute_path
from zk0.config.recordings import ClientConfig
from zk0.files import atomic
from zk0.metrics.values import Json, mapping, number

INFO = Path("meta", "info.json")
IMAGES = "observation.images."
PORT = "/dev/ttyACM0"
USUAL: Json = {"width": 640, "height": 480, "fps": 30}
"""Of a camera whose recordings are not on this machine."""


def rollout_line(client: ClientConfig, policy: Path) -> str:
    """`lerobot-rollout` for a client's arm; port, cameras' indices and task are for the user to fill in.

    Args:
        client: whose arm it is: its recordings name robot and cameras, its rename_map what the policy calls them.
        policy: the exported folder.
    """
    info = _info(client)
    found = enumerate(_cameras(client, info))
    cameras = {name: {"type": "opencv", "index_or_path": index, **size} for index, (name, size) in found}
    words = [
        "lerobot-rollout",
        "--strategy.type=base",
        f"--policy.path={policy}",
        f"--robot.type={_robot(info)}",
        f"--robot.port={PORT}",
        f"--robot.id={client.name}",
        f"--robot.cameras={json.dumps(cameras)}",
        f"--fps={number(info.get('fps')) or 30:g}",
        "--task=what it was recorded with",
        "--duration=60",
    ]
    if client.rename_map:
        words.insert(-2, f"--rename_map={json.dumps(client.rename_map)}")
    return " ".join(map(shlex.quote, words))


def _info(client: ClientConfig) -> Json:
    """What the recordings say of themselves; nothing where they are not here."""
    if client.root is None:
        return {}
    path = absolute_path(resolve_path(str(client.root))) / INFO
    return mapping(atomic.read_json(path, follow=True)) if atomic.is_there(path) else {}


def _cameras(client: ClientConfig, info: Json) -> Iterator[tuple[str, dict[str, Any]]]:
    """The robot's names of its cameras, and their sizes."""
    features = mapping(info.get("features"))
    named = [name for name in features if name.startswith(IMAGES)]
    for name in named or [name for name in client.rename_map if name.startswith(IMAGES)]:
        feature = mapping(features.get(name))
        shape, axes = feature.get("shape"), feature.get("names")
        size = dict(zip(axes, shape, strict=False)) if isinstance(shape, list) and isinstance(axes, list) else {}
        known = {key: size.get(key, USUAL[key]) for key in ("width", "height")}
        yield name.removeprefix(IMAGES), {**known, "fps": int(number(info.get("fps")) or USUAL["fps"])}


def _robot(info: Json) -> str:
    """LeRobot's name of the robot: recordings of the simulator, and old ones, have it without its part."""
    said = str(info.get("robot_type") or "so101_follower")
    family = next((name for name in ("so100", "so101") if name in said), None)
    return f"{family}_follower" if family else said
