"""A scripted expert: inverse kinematics to hover over the cube, descend, grasp and lift."""

from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from so101_nexus.lerobot_dataset import sim_qpos_to_dataset_row

from zk0.sim.simulation import PickSimulation, Vector

_OPEN_RAD, _CLOSED_RAD = 1.0, -0.17
_HOVER_M, _GRASP_M, _LIFT_M = 0.07, 0.002, 0.09  # height of the gripper's centre over the cube's
_JAW_OFFSET_M = 0.005  # the fixed jaw stays this far from the cube
_PHASE_STEPS = (13, 10, 7, 12)  # hover, descend, close, lift
_HOLD_STEPS = 10
_START_POSE_RAD = (0.0, -0.2, 0.2, 1.4, 0.0)  # where inverse kinematics starts: arm bent, gripper down, wrist straight


class Expert:
    """Plans the joint targets that pick up the cube of a simulation that was just reset."""

    approach_end = _PHASE_STEPS[0] + _PHASE_STEPS[1] // 2  # until here an error is easily made good

    def __init__(self, simulation: PickSimulation) -> None:
        self._simulation = simulation
        self._scratch = mujoco.MjData(simulation.model)
        low, high = simulation.arm_limits()
        self._low, self._high = low + 1e-3, high - 1e-3

    def _inverse(self, position: Vector, yaw: float, start: Vector) -> Vector:
        """Arm joints (5,) in rad that bring the gripper, pointing down and turned to `yaw`, to `position` (3,) in m."""

        def residual(joints: Vector) -> Vector:
            reached, rotation = self._simulation.gripper_pose(joints, self._scratch)
            turn = np.arctan2(rotation[1, 0], rotation[0, 0]) - yaw
            down = rotation[:, 2] - np.array([0.0, 0.0, -1.0])
            rest = (joints - start) * 0.01
            return np.concatenate([(reached - position) * 100, down * 0.9, [np.sin(2 * turn) * 0.5], rest])

        start = np.clip(start, self._low + 1e-2, self._high - 1e-2)
        solution = least_squares(residual, start, bounds=(self._low, self._high), max_nfev=60)
        return np.asarray(solution.x, dtype=np.float64)

    def _reach(self, position: Vector, yaw: float, start: Vector) -> Vector:
        """Like `_inverse`, with the fixed jaw moved aside so that it does not land on the cube."""
        joints = self._inverse(position, yaw, start)
        _, rotation = self._simulation.gripper_pose(joints, self._scratch)
        return self._inverse(position - rotation[:, 0] * _JAW_OFFSET_M, yaw, joints)

    def plan(self) -> NDArray[np.float32]:
        """Returns the joint targets of the whole episode, (steps, 6) in degrees and gripper percent."""
        pose = self._simulation.cube_pose()
        cube, yaw = pose[:3], 2 * float(np.arctan2(pose[6], pose[3]))
        hover = self._reach(cube + np.array((0.0, 0.0, _HOVER_M)), yaw, np.array(_START_POSE_RAD))
        grasp = self._reach(cube + np.array((0.0, 0.0, _GRASP_M)), yaw, hover)
        lift = self._reach(cube + np.array((0.0, 0.0, _LIFT_M)), yaw, grasp)
        way = ((hover, _OPEN_RAD), (grasp, _OPEN_RAD), (grasp, _CLOSED_RAD), (lift, _CLOSED_RAD))
        current = self._simulation.joints()
        targets: list[Vector] = []
        for (joints, gripper), steps in zip(way, _PHASE_STEPS, strict=True):
            goal = np.append(joints, gripper)
            part = np.linspace(0.0, 1.0, steps + 1)[1:, None]
            targets.extend(current + (goal - current) * (part * part * (3 - 2 * part)))
            current = goal
        targets.extend([current] * _HOLD_STEPS)
        return np.asarray(sim_qpos_to_dataset_row(np.stack(targets)), dtype=np.float32)
