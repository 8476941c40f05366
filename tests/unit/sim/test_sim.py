"""The simulator: settings, environment, expert and recorder. Skipped without the extra `sim`."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("so101_nexus")

from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.envs import make_env
from lerobot.envs.configs import EnvConfig
from lerobot.envs.factory import make_env_config

from zk0.sim import BASE, CLIENTS, SETTINGS, UNSEEN, ZONES
from zk0.sim.env import CAMERAS, FPS, JOINTS, SO101PickEnv, SO101PickEnvConfig
from zk0.sim.record import demonstrate, record


@pytest.fixture
def env() -> Iterator[SO101PickEnv]:
    environment = SO101PickEnv(BASE)
    yield environment
    environment.close()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record("kitchen", 2, tmp_path_factory.mktemp("record") / "kitchen", seed=7)


def test_clients_differ_from_the_base_in_everything() -> None:
    base = SETTINGS[BASE]
    assert set(SETTINGS) == {BASE, *CLIENTS, UNSEEN}
    for name in (*CLIENTS, UNSEEN):
        setting = SETTINGS[name]
        assert setting.zone != base.zone
        assert setting.camera != base.camera
        assert setting.light != base.light
        assert setting.cube_rgb != base.cube_rgb
        assert setting.task != base.task


def test_unseen_lies_among_the_clients() -> None:
    def values(name: str) -> list[float]:
        s = SETTINGS[name]
        view = (*s.camera.lookat_m, s.camera.distance_m, s.camera.azimuth_deg, s.camera.elevation_deg)
        return [*s.zone.radius_m, s.zone.centre_deg, s.zone.half_angle_deg, *view, s.light.brightness, s.light.ambient]

    clients = np.array([values(name) for name in CLIENTS])
    unseen = np.array(values(UNSEEN))
    assert (unseen >= clients.min(axis=0)).all()
    assert (unseen <= clients.max(axis=0)).all()


def test_reset_is_determined_by_its_seed(env: SO101PickEnv) -> None:
    first, _ = env.reset(seed=3)
    other, _ = env.reset(seed=4)
    again, _ = env.reset(seed=3)
    assert not np.array_equal(first["environment_state"], other["environment_state"])
    np.testing.assert_array_equal(first["agent_pos"], again["agent_pos"])
    np.testing.assert_array_equal(first["environment_state"], again["environment_state"])
    for camera in CAMERAS:
        np.testing.assert_array_equal(first["pixels"][camera], again["pixels"][camera])


def test_observation_fits_its_space(env: SO101PickEnv) -> None:
    observation, info = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert info == {"is_success": False}
    assert len(JOINTS) == 6


def test_the_cube_lies_in_its_zone() -> None:
    for name in (BASE, UNSEEN):
        zone = SETTINGS[name].zone
        env = SO101PickEnv(name)
        try:
            for seed in range(5):
                x, y = env.reset(seed=seed)[0]["environment_state"][:2]
                assert zone.radius_m[0] - 0.01 <= np.hypot(x - 0.05, y) <= zone.radius_m[1] + 0.01
                assert abs(np.degrees(np.arctan2(y, x - 0.05)) - zone.centre_deg) <= zone.half_angle_deg + 2
        finally:
            env.close()


def test_settings_look_different() -> None:
    images = []
    for name in SETTINGS:
        env = SO101PickEnv(name)
        images.append(env.reset(seed=0)[0]["pixels"]["front"].astype(float))
        env.close()
    for i, image in enumerate(images):
        assert image.std() > 5  # something is in the picture
        for other in images[i + 1 :]:
            assert np.abs(image - other).mean() > 1


def test_the_expert_succeeds_in_every_setting() -> None:
    for name in SETTINGS:
        env = SO101PickEnv(name)
        try:
            assert sum(demonstrate(env, seed) is not None for seed in range(1, 5)) >= 3, name
        finally:
            env.close()


def test_the_zones_lie_side_by_side_and_differ_in_nothing_else() -> None:
    base = SETTINGS[BASE]
    edges = []
    for name, setting in ZONES.items():
        assert dataclasses.replace(setting, name=base.name, zone=base.zone) == base, name
        edges.append((setting.zone.centre_deg - setting.zone.half_angle_deg, setting.zone.centre_deg))
    starts = [start for start, _ in sorted(edges)]
    assert starts == [-60.0, -30.0, 0.0, 30.0]


def test_without_cameras_the_same_is_seen_but_for_the_pictures(env: SO101PickEnv) -> None:
    blind = SO101PickEnv(BASE, obs_type="environment_state_agent_pos")
    try:
        seen, with_pixels = blind.reset(seed=3)[0], env.reset(seed=3)[0]
        for _ in range(3):
            assert seen.keys() == {"agent_pos", "environment_state"}
            assert blind.observation_space.contains(seen)
            for key in seen:
                np.testing.assert_array_equal(seen[key], with_pixels[key])
            action = seen["agent_pos"] + 1
            seen, with_pixels = blind.step(action)[0], env.step(action)[0]
        with pytest.raises(RuntimeError, match="'environment_state_agent_pos' has no cameras"):
            blind.render()
    finally:
        blind.close()
    with pytest.raises(RuntimeError, match="closed"):
        blind.reset(seed=3)


def test_a_recording_without_cameras(tmp_path: Path) -> None:
    root = record("far-right", 1, tmp_path / "blind", 7, "environment_state_agent_pos")
    dataset = LeRobotDataset("zk0/far-right", root=root)
    assert dataset.meta.camera_keys == []
    assert not list(root.rglob("*.mp4"))
    assert dataset[0]["observation.environment_state"].shape == (7,)
    x, y = dataset[0]["observation.environment_state"][:2].tolist()
    assert -62 <= np.degrees(np.arctan2(y, x - 0.05)) <= -28


def test_an_arm_that_stays_does_not_succeed(env: SO101PickEnv) -> None:
    observation, _ = env.reset(seed=0)
    for step in range(75):
        _, _, terminated, truncated, info = env.step(observation["agent_pos"])
        assert not terminated
        assert not info["is_success"]
        assert truncated == (step == 74)


def test_a_closed_environment_says_so(env: SO101PickEnv) -> None:
    env.reset(seed=0)
    env.close()
    env.close()  # twice is fine
    with pytest.raises(RuntimeError, match="closed"):
        env.reset(seed=0)


def test_a_recording_opens_in_lerobot(recorded: Path) -> None:
    dataset = LeRobotDataset("zk0/kitchen", root=recorded, video_backend="pyav")
    assert dataset.num_episodes == 2
    assert dataset.fps == FPS
    assert dataset.meta.video_keys == [f"observation.images.{camera}" for camera in CAMERAS]
    assert dataset.features["action"]["names"] == [f"{joint}.pos" for joint in JOINTS]
    item = dataset[0]
    assert item["action"].shape == item["observation.state"].shape == (6,)
    assert item["observation.environment_state"].shape == (7,)
    assert item["observation.images.front"].shape == item["observation.images.wrist"].shape == (3, 64, 64)
    assert item["task"] == SETTINGS["kitchen"].task


def test_a_recording_repeats_byte_for_byte(recorded: Path, tmp_path: Path) -> None:
    again = record("kitchen", 2, tmp_path / "kitchen", seed=7)
    files = [path.relative_to(recorded) for path in recorded.rglob("*") if path.is_file()]
    assert len(files) >= 7
    for file in files:
        assert (recorded / file).read_bytes() == (again / file).read_bytes(), file


def test_record_refuses_bad_input(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="setting='attic' is unknown; use one of: base"):
        record("attic", 1, tmp_path / "new")
    with pytest.raises(ValueError, match="episodes=0 is too few"):
        record(BASE, 0, tmp_path / "new")
    with pytest.raises(ValueError, match="seed=-1 is negative"):
        record(BASE, 1, tmp_path / "new", seed=-1)
    with pytest.raises(ValueError, match="obs_type='state' is unknown; use one of: pixels_agent_pos, environment_st"):
        record(BASE, 1, tmp_path / "new", obs_type="state")
    with pytest.raises(ValueError, match="exists already"):
        record(BASE, 1, tmp_path)
    assert not (tmp_path / "new").exists()


def test_lerobot_makes_the_environment() -> None:
    config = make_env_config("zk0_so101", setting=UNSEEN)
    assert isinstance(config, SO101PickEnvConfig)
    assert EnvConfig.get_choice_class("zk0_so101") is SO101PickEnvConfig
    vector = make_env(config, n_envs=1)["zk0_so101"][0]
    try:
        observation, _ = vector.reset(seed=[0])
        assert observation["pixels"]["front"].shape == (1, 64, 64, 3)
        assert vector.call("task_description") == (SETTINGS[UNSEEN].task,)
    finally:
        vector.close()


def test_the_configuration_refuses_bad_values() -> None:
    with pytest.raises(ValueError, match="setting='attic' is unknown"):
        SO101PickEnvConfig(setting="attic")
    with pytest.raises(ValueError, match="obs_type='state' is unknown"):
        SO101PickEnvConfig(obs_type="state")
    with pytest.raises(ValueError, match="fps=30 is not supported"):
        SO101PickEnvConfig(fps=30)


def test_without_the_extra_the_import_says_what_to_install() -> None:
    hide = "import sys, importlib.util as u; find = u.find_spec\n"
    hide += "u.find_spec = lambda name, *a: None if name == 'so101_nexus' else find(name, *a)\nimport zk0.sim"
    result = subprocess.run([sys.executable, "-c", hide], capture_output=True, text=True, check=False)
    assert "so101_nexus cannot be imported; install it with: pip install zk0[sim]" in result.stderr


def test_importing_the_package_loads_neither_the_simulator_nor_lerobot() -> None:
    code = "import sys, zk0.sim; print([m for m in ('mujoco', 'torch', 'lerobot', 'so101_nexus') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
