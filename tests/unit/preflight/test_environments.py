"""Simulated environments before a run: whatever a rollout would fail on is refused, by its key."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("so101_nexus")
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig

from benchmarks.service import small_run
from zk0.config import RunConfig, validate_config
from zk0.errors import ConfigError
from zk0.executors.choice import make_executor
from zk0.executors.process import ProcessExecutor
from zk0.federation.round import rollout_work
from zk0.learning.environments import env_config
from zk0.preflight.environments import check
from zk0.runs.records import RoundState
from zk0.runs.store import RunStore
from zk0.work.records import ArtifactRef

BLIND = {"setting": "left", "obs_type": "environment_state_agent_pos"}


def config(**environment: Any) -> RunConfig:
    bench = {"name": "bench", "type": "zk0_so101", "plugin": "zk0.sim", "options": BLIND, "episodes": 1} | environment
    return validate_config(small_run("outputs", evaluation__environments=[bench]))  # type: ignore[arg-type]


def act(state: int = 6, action: int = 6, **inputs: PolicyFeature) -> ACTConfig:
    """A policy that reads joints and the cube's pose."""
    return ACTConfig(
        device="cpu",
        push_to_hub=False,
        input_features={
            "observation.state": PolicyFeature(FeatureType.STATE, (state,)),
            "observation.environment_state": PolicyFeature(FeatureType.ENV, (7,)),
            **inputs,
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (action,))},
    )


CAMERA = PolicyFeature(FeatureType.VISUAL, (3, 64, 64))


class Mute(gym.Env):
    """Has what the policy needs, and tells nobody whether it succeeded, or only at the end."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space = gym.spaces.Dict(
        {"agent_pos": gym.spaces.Box(-1, 1, (6,)), "environment_state": gym.spaces.Box(-1, 1, (7,))}
    )
    action_space = gym.spaces.Box(1, 2, (6,))
    _max_episode_steps = 3

    def __init__(self, tells: bool = False) -> None:
        self.tells, self.steps = tells, 0

    def observe(self) -> dict[str, Any]:
        return {"agent_pos": np.zeros(6, np.float32), "environment_state": np.zeros(7, np.float32)}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        self.steps = 0
        return self.observe(), {}

    def step(self, action):
        assert action in self.action_space
        self.steps += 1
        last = self.steps == self._max_episode_steps
        return self.observe(), 0.0, last, False, {"is_success": True} if last and self.tells else {}


@EnvConfig.register_subclass("mute")
@dataclass
class MuteConfig(EnvConfig):
    task: str | None = "Mute-v0"
    tells: bool = False
    features: dict[str, PolicyFeature] = field(default_factory=dict)

    @property
    def package_name(self) -> str:
        return "zk0_tests"

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        return {"tells": self.tells}


gym.register(id="zk0_tests/Mute-v0", entry_point=Mute)  # type: ignore[arg-type]  # asks for any arguments at all


def test_the_options_are_lerobots() -> None:
    made = env_config(config(options={"setting": "kitchen", "episode_length": 10}).evaluation.environments[0])
    assert (made.type, made.setting, made.episode_length) == ("zk0_so101", "kitchen", 10)


@pytest.mark.parametrize("tells", [True, False])
def test_success_is_reported_at_the_end_or_never(tells: bool) -> None:
    mute = config(type="mute", plugin=None, options={"tells": tells})
    if tells:
        check(mute, act())
        return
    with pytest.raises(ConfigError, match=r"environments.bench.type = 'mute': its episodes do not report `is_success`"):
        check(mute, act())


@pytest.mark.parametrize(
    ("environment", "base", "words"),
    [
        ({"plugin": "nowhere.sim"}, {}, "plugin = 'nowhere.sim': cannot be imported (Failed to load plugin"),
        ({"type": "zk0_so102"}, {}, "type = 'zk0_so102': no such environment is registered (there are"),
        ({"options": {"seting": "left"}}, {}, "SO101PickEnvConfig refuses them: The fields `seting` are not valid"),
        ({"options": {"setting": "moon"}}, {}, "refuses them: setting='moon' is unknown; use one of: base, kitchen"),
        ({"options": {"image_size": "big"}}, {}, "refuses them: `image_size`: Couldn't parse 'big' into an int"),
        ({"rename_map": {"observation.joints": "x"}}, {}, "it gives no 'observation.joints'; it has observation.env"),
        (
            {},
            {"observation.images.top": CAMERA},
            "environment_state, observation.state; there is no other camera to map to it",
        ),
        (
            {"options": {"setting": "left"}},
            {"observation.images.top": CAMERA},
            "such as {'observation.images.front' = 'observation.images.top'}",
        ),
        ({}, {"state": 7}, "'observation.state' has shape (6,), the policy (act) was made for (7,)"),
        ({}, {"action": 7}, "its actions have shape (6,), those of the policy (act) (7,)"),
        ({"videos": 1}, {}, "videos = 1: it gives no pictures (nothing to render; obs_type="),
        ({"type": "mute", "options": {}, "videos": 1}, {}, "videos = 1: it gives no pictures ("),
    ],
)
def test_what_a_rollout_would_fail_on(environment: dict[str, Any], base: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match="^evaluation.environments.bench.*" + re.escape(words)):
        check(config(**environment), act(**base))


def test_a_camera_may_be_renamed_and_smolvla_may_lack_one() -> None:
    cameras = dict.fromkeys(("observation.images.top", "observation.images.side"), CAMERA)
    base = SmolVLAConfig(
        device="cpu", input_features=cameras | act().input_features, output_features=act().output_features
    )
    renamed = {"observation.images.front": "observation.images.top"}
    check(config(options={"setting": "left"}, rename_map=renamed, videos=1), base)
    with pytest.raises(ConfigError, match=r"the policy needs 'observation.images.top'"):
        check(config(options={"setting": "left"}), base)


def test_a_machine_that_cannot_draw_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The words are those of PyOpenGL without libEGL, where MuJoCo is imported."""
    (tmp_path / "broken.py").write_text("None.eglQueryString")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"plugin = 'broken'.*eglQueryString.*egl: Debian's libegl1.*set MUJOCO_GL"):
        check(config(plugin="broken"), act())


def test_rollouts_are_for_full_rounds_and_a_process_of_this_machine_whatever_the_executor(tmp_path: Path) -> None:
    bench = {"name": "bench", "type": "zk0_so101"}
    run = small_run(tmp_path, evaluation__environments=[bench], evaluation__full_every=0, executor__kind="docker")
    store = RunStore.create_or_open(validate_config(run), "rolled-out")
    states = [RoundState(server_round=number, arrays=ArtifactRef(path="x", sha256="x", size=1)) for number in range(3)]
    work = [rollout_work(store, state) for state in states]
    assert [len(tasks) for tasks in work] == [1, 0, 1]
    assert (work[0][0].kind, work[0][0].client) == ("rollout", "bench")
    assert isinstance(make_executor(work[0][0], store.config), ProcessExecutor)
