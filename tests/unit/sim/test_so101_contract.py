"""What zk0/sim/simulation.py relies on in so101-nexus beside its documented interface; it is pinned exactly."""

from collections.abc import Iterator
from importlib.metadata import version

import numpy as np
import pytest

pytest.importorskip("so101_nexus")

from so101_nexus.mujoco.pick_env import PickLiftEnv

from zk0.sim import BASE
from zk0.sim.settings import SETTINGS
from zk0.sim.simulation import ARM_JOINTS, PickSimulation


@pytest.fixture(scope="module")
def simulation() -> Iterator[PickSimulation]:
    made = PickSimulation(SETTINGS[BASE])
    made.reset(seed=3)
    yield made
    made.close()


def test_the_pinned_version() -> None:
    assert version("so101-nexus") == "0.10.0"


def test_a_reset_asks_the_task_to_place_what_it_has(
    simulation: PickSimulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def placed(self: object) -> None:
        asked.append(self)

    monkeypatch.setattr(PickLiftEnv, "_task_reset", placed)
    simulation.reset(seed=3)
    assert asked == [simulation]


def test_the_first_slot_is_the_cube(simulation: PickSimulation) -> None:
    slot = simulation._slots[0]
    assert len(list(slot.geom_ids)) >= 1
    pose = simulation.data.qpos[slot.qpos_addr : slot.qpos_addr + 7]
    np.testing.assert_allclose(simulation._get_target_pose(), pose, atol=1e-6)


def test_joints_and_limits_are_the_arms(simulation: PickSimulation) -> None:
    joints = simulation._get_current_qpos()
    assert joints.shape == (ARM_JOINTS + 1,)
    np.testing.assert_allclose(joints[:ARM_JOINTS], simulation.data.qpos[simulation._arm_qpos_addrs][:ARM_JOINTS])
    assert (simulation._target_low[:ARM_JOINTS] < simulation._target_high[:ARM_JOINTS]).all()
    assert simulation.data.site_xpos[simulation._tcp_site_id].shape == (3,)


def test_a_step_is_control_then_physics_then_reward(simulation: PickSimulation) -> None:
    target = simulation.joints()
    simulation.data.ctrl[simulation._actuator_ids] = simulation._action_to_ctrl(target)
    before = simulation.data.time
    simulation._advance_physics()
    assert simulation.data.time - before == pytest.approx(simulation.control_dt)
    _, reward, _, _, info = simulation._finish_step(target)
    assert np.isfinite(reward)
    assert isinstance(info, dict)
