"""SO-101 pick-and-lift as a gym environment and as a LeRobot environment plug-in (`--env.type=zk0_so101`).

Joints are in degrees and the gripper in percent of its travel (0 closed, 100 open), as LeRobot records an SO-101.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_IMAGES, OBS_STATE
from numpy.typing import NDArray
from so101_nexus.lerobot_dataset import dataset_row_to_sim_qpos, sim_qpos_to_dataset_row

from zk0.sim.settings import BASE, CameraPose, get_setting
from zk0.sim.simulation import PickSimulation

FPS = 25
CAMERAS = ("front", "wrist")
IMAGE_SIZE = 64
EPISODE_STEPS = 75
OBS_TYPES = ("pixels_agent_pos", "environment_state_agent_pos")
"""What is observed, spelled as in LeRobot's environments: with the cameras, or without, 20 times as fast."""
JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")

Observation = dict[str, Any]


def _check_obs_type(obs_type: str) -> str:
    if obs_type not in OBS_TYPES:
        raise ValueError(f"obs_type={obs_type!r} is unknown; use one of: {', '.join(OBS_TYPES)}")
    return obs_type


def _has_pixels(obs_type: str) -> bool:
    return obs_type == OBS_TYPES[0]


def _make_camera(pose: CameraPose) -> mujoco.MjvCamera:
    camera = mujoco.MjvCamera()
    camera.type = mujoco.mjtCamera.mjCAMERA_FREE
    camera.lookat[:] = pose.lookat_m
    camera.distance, camera.azimuth, camera.elevation = pose.distance_m, pose.azimuth_deg, pose.elevation_deg
    return camera


class SO101PickEnv(gym.Env[Observation, NDArray[np.float32]]):
    """An SO-101 arm that has to grasp a cube and lift it by 5 cm, controlled at 25 Hz.

    Action (6,): target joint positions in degrees, gripper 0-100. Observation: `agent_pos` (6,) in the same units,
    `environment_state` (7,) the cube's position in m and quaternion (w, x, y, z), and, unless `obs_type` is
    "environment_state_agent_pos", `pixels` with the cameras `front` and `wrist`, each (size, size, 3) uint8.
    `info["is_success"]` tells whether the cube is held and lifted; that ends the episode.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": FPS}  # noqa: RUF012

    def __init__(
        self,
        setting: str = BASE,
        image_size: int = IMAGE_SIZE,
        max_steps: int = EPISODE_STEPS,
        render_mode: str | None = "rgb_array",
        obs_type: str = OBS_TYPES[0],
    ) -> None:
        self.setting = get_setting(setting)
        self.obs_type = _check_obs_type(obs_type)
        self.task = self.task_description = self.setting.task
        self.render_mode = render_mode
        self._max_episode_steps = max_steps  # the name LeRobot's evaluation asks for
        self._steps = 0
        self._pixels: dict[str, NDArray[np.uint8]] = {}
        self._closed = False
        self.simulation = PickSimulation(self.setting)
        self.cameras = CAMERAS if _has_pixels(obs_type) else ()
        self._cameras: dict[str, Any] = {}
        self._renderer: mujoco.Renderer | None = None
        spaces: dict[str, gym.Space[Any]] = {
            "agent_pos": gym.spaces.Box(-np.inf, np.inf, (len(JOINTS),), np.float32),
            "environment_state": gym.spaces.Box(-np.inf, np.inf, (7,), np.float32),
        }
        if self.cameras:
            self._cameras = {"front": _make_camera(self.setting.camera), "wrist": "wrist_cam"}
            self._renderer = self._make_renderer(image_size)
            image = gym.spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
            spaces["pixels"] = gym.spaces.Dict(dict.fromkeys(CAMERAS, image))
        self.observation_space = gym.spaces.Dict(spaces)
        self.action_space = gym.spaces.Box(-200.0, 200.0, (len(JOINTS),), np.float32)

    def _make_renderer(self, image_size: int) -> mujoco.Renderer:
        """One renderer for all cameras, without shadows and reflections."""
        renderer = mujoco.Renderer(self.simulation.model, image_size, image_size)
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        return renderer

    def _observe(self) -> Observation:
        if self._closed:
            raise RuntimeError("the environment is closed; make a new one")
        joints = sim_qpos_to_dataset_row(self.simulation.joints())
        observation: Observation = {
            "agent_pos": joints.astype(np.float32),
            "environment_state": self.simulation.cube_pose().astype(np.float32),
        }
        if self._renderer is not None:
            for name, camera in self._cameras.items():
                self._renderer.update_scene(self.simulation.data, camera=camera)
                self._pixels[name] = self._renderer.render().copy()
            observation["pixels"] = dict(self._pixels)
        return observation

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Places arm and cube at random (the same for the same seed)."""
        super().reset(seed=seed)
        self.simulation.reset(seed=seed, options=options)
        self._steps = 0
        return self._observe(), {"is_success": False}

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Holds the action's joint targets for 1/25 s."""
        target = dataset_row_to_sim_qpos(np.asarray(action, dtype=np.float64))
        reward, info = self.simulation.hold(target, 1 / FPS)
        success = bool(info["success"])
        self._steps += 1
        truncated = not success and self._steps >= self._max_episode_steps
        return self._observe(), reward, success, truncated, {"is_success": success}

    def render(self) -> NDArray[np.uint8]:
        """Returns the front camera's last image, (size, size, 3) uint8."""
        if not self._pixels:
            wanted = "call reset() first" if self.cameras else f"obs_type={self.obs_type!r} has no cameras"
            raise RuntimeError(f"nothing to render; {wanted}")
        return self._pixels["front"]

    def close(self) -> None:
        """Frees the renderer: a second environment renders wrong images while the first one's is open."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        if not self._closed:
            self._closed = True
            self.simulation.close()


_GYM_NAMESPACE, _GYM_TASK = "zk0", "SO101PickLift-v0"
if f"{_GYM_NAMESPACE}/{_GYM_TASK}" not in gym.registry:
    gym.register(id=f"{_GYM_NAMESPACE}/{_GYM_TASK}", entry_point="zk0.sim.env:SO101PickEnv")


@EnvConfig.register_subclass("zk0_so101")
@dataclass
class SO101PickEnvConfig(EnvConfig):  # type: ignore[misc]
    """LeRobot's configuration of the environment: `--env.type=zk0_so101 --env.setting=kitchen`."""

    task: str | None = _GYM_TASK
    fps: int = FPS
    setting: str = BASE
    episode_length: int = EPISODE_STEPS
    image_size: int = IMAGE_SIZE
    obs_type: str = OBS_TYPES[0]
    features: dict[str, PolicyFeature] = field(default_factory=dict)
    features_map: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks the values and derives the features."""
        get_setting(self.setting)
        _check_obs_type(self.obs_type)
        if self.fps != FPS:
            raise ValueError(f"fps={self.fps} is not supported: the arm is controlled at {FPS} Hz; leave it out")
        self.features = {
            ACTION: PolicyFeature(FeatureType.ACTION, (len(JOINTS),)),
            "agent_pos": PolicyFeature(FeatureType.STATE, (len(JOINTS),)),
            "environment_state": PolicyFeature(FeatureType.ENV, (7,)),
        }
        self.features_map = {ACTION: ACTION, "agent_pos": OBS_STATE, "environment_state": OBS_ENV_STATE}
        for camera in CAMERAS if _has_pixels(self.obs_type) else ():
            shape = (self.image_size, self.image_size, 3)
            self.features[f"pixels/{camera}"] = PolicyFeature(FeatureType.VISUAL, shape)
            self.features_map[f"pixels/{camera}"] = f"{OBS_IMAGES}.{camera}"

    @property
    def package_name(self) -> str:
        """The gym id's namespace."""
        return _GYM_NAMESPACE

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        """Arguments of `SO101PickEnv`."""
        return {
            "setting": self.setting,
            "image_size": self.image_size,
            "max_steps": self.episode_length,
            "obs_type": self.obs_type,
        }
