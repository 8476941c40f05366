"""SO-101 pick-and-lift in simulation: settings, gym environment, scripted expert and dataset recorder.

This package is optional (`pip install zk0[sim]`); nothing outside it imports it at module level. Importing it is cheap:
the environment (`zk0.sim.env`) and the recorder (`zk0.sim.record`) load MuJoCo and LeRobot and are imported by name.
"""

from __future__ import annotations

import importlib.util
import os
import sys

_REQUIRED = ("so101_nexus", "mujoco", "scipy")
_missing = [name for name in _REQUIRED if importlib.util.find_spec(name) is None]
if _missing:
    raise ImportError(
        f"zk0.sim needs the simulator, but {', '.join(_missing)} cannot be imported; "
        "install it with: pip install zk0[sim]"
    )
if sys.platform == "linux":  # off-screen rendering without a display; read once, when mujoco is first imported
    os.environ.setdefault("MUJOCO_GL", "egl")

from zk0.sim.settings import BASE, CLIENTS, SETTINGS, UNSEEN, ZONES, Setting, get_setting  # noqa: E402

__all__ = ["BASE", "CLIENTS", "SETTINGS", "UNSEEN", "ZONES", "Setting", "get_setting"]
