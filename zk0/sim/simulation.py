"""The physics of one setting: so101-nexus' pick-and-lift task with the setting's zone, light and cube.

Its private parts are used, for it has no public way to place the cube, to read a pose, or to hold joints without
rendering. Its version is pinned exactly; held by tests/unit/sim/test_so101_contract.py.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray
from so101_nexus.config import PickConfig, RenderConfig
from so101_nexus.mujoco.pick_env import PickLiftEnv
from so101_nexus.observations import JointPositions, ObjectPose
from so101_nexus.rendering import RenderingQuality

from zk0.sim.settings import Setting

ARM_JOINTS = 5  # the sixth actuator is the gripper's
ZONE_CENTRE_M = (0.05, 0.0)

_CUBE_YAW_DEG = 15.0  # the cube faces the arm, give or take this angle
_VISUAL_GROUP, _COLLISION_GROUP = 2, 3  # geom groups of the robot's model
_ROBOT_RGBA = (0.95, 0.80, 0.10, 1.0)

Vector = NDArray[np.float64]


class PickSimulation(PickLiftEnv):
    """Pick-and-lift physics in radians, without renderers; the cube lies in the setting's zone and faces the arm."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        config = PickConfig(
            render=RenderConfig(
                quality=RenderingQuality("reproducible", msaa_samples=0, shadows=False, shadow_map_size=1)
            ),
            obs_mode="state",
            observations=[JointPositions(), ObjectPose()],
            spawn_center=ZONE_CENTRE_M,
            spawn_min_radius=setting.zone.radius_m[0],
            spawn_max_radius=setting.zone.radius_m[1],
            spawn_angle_half_range_deg=setting.zone.half_angle_deg,
        )
        super().__init__(config=config)
        self._dress(setting)

    def _dress(self, setting: Setting) -> None:
        """Applies the setting's light and colours.

        The robot's visual meshes have 350 k faces: they are hidden and its collision hulls drawn instead, 270 times
        faster on a CPU.
        """
        model = self.model
        model.geom_rgba[model.geom_group == _VISUAL_GROUP, 3] = 0.0
        hulls = model.geom_group == _COLLISION_GROUP
        model.geom_rgba[hulls], model.geom_matid[hulls], model.geom_group[hulls] = _ROBOT_RGBA, -1, 0
        cube = list(self._slots[0].geom_ids)
        model.geom_rgba[cube], model.geom_matid[cube] = (*setting.cube_rgb, 1.0), -1
        model.light_diffuse[:] = setting.light.brightness
        model.vis.headlight.ambient[:] = setting.light.ambient
        direction = np.asarray(setting.light.direction, dtype=np.float64)
        model.light_dir[-1] = direction / np.linalg.norm(direction)

    def _task_reset(self) -> None:
        super()._task_reset()
        zone, rng = self._setting.zone, self.np_random
        radius = rng.uniform(*zone.radius_m)
        angle = np.radians(zone.centre_deg + rng.uniform(-1.0, 1.0) * zone.half_angle_deg)
        yaw = angle + np.radians(rng.uniform(-_CUBE_YAW_DEG, _CUBE_YAW_DEG))
        address = self._slots[0].qpos_addr
        x, y = ZONE_CENTRE_M[0] + radius * np.cos(angle), ZONE_CENTRE_M[1] + radius * np.sin(angle)
        self.data.qpos[address : address + 2] = x, y
        self.data.qpos[address + 3 : address + 7] = np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)

    def joints(self) -> Vector:
        """Current joint positions (6,) in rad."""
        return np.asarray(self._get_current_qpos(), dtype=np.float64)

    def cube_pose(self) -> Vector:
        """The cube's position in m and quaternion (w, x, y, z), (7,)."""
        return np.asarray(self._get_target_pose(), dtype=np.float64)

    def arm_limits(self) -> tuple[Vector, Vector]:
        """Lowest and highest target (5,) in rad of the arm's joints."""
        return self._target_low[:ARM_JOINTS], self._target_high[:ARM_JOINTS]

    def hold(self, target: Vector, seconds: float) -> tuple[float, dict[str, Any]]:
        """Holds joint targets (6,) in rad for a while; returns the task's reward and info."""
        target = np.clip(target, self.action_space.low, self.action_space.high)
        self.data.ctrl[self._actuator_ids] = self._action_to_ctrl(target)
        for _ in range(round(seconds / self.control_dt)):
            self._advance_physics()
        _, reward, _, _, info = self._finish_step(target)
        return float(reward), info

    def gripper_pose(self, arm: Vector, scratch: mujoco.MjData) -> tuple[Vector, Vector]:
        """Position (3,) in m and rotation (3, 3) of the gripper's centre if the arm's joints (5,) were at `arm` rad."""
        scratch.qpos[:] = self.data.qpos
        scratch.qpos[self._arm_qpos_addrs] = arm
        mujoco.mj_kinematics(self.model, scratch)
        site = self._tcp_site_id
        return scratch.site_xpos[site].copy(), scratch.site_xmat[site].reshape(3, 3).copy()
