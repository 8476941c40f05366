"""Success in closed loop: Wilson's interval, and LeRobot's `eval_policy` in the simulator."""

import re

import pytest

from zk0.learning.closed_loop import Plan, roll_out
from zk0.metrics.success import Success


@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    [
        # Newcombe 1998 (Stat. Med. 17:857), table I, method 3: Wilson's score interval.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_is_the_published_one(successes: int, episodes: int, low: float, high: float) -> None:
    assert Success(successes, episodes).interval() == pytest.approx((low, high), abs=5e-5)


def test_successes_add_up_and_read_well() -> None:
    both = Success(30, 100) + Success(50, 100)
    assert both == Success(80, 200)
    assert both.rate == 0.4
    assert str(both) == "80/200 = 40.0%, 95 % interval 33.5% to 46.9%"
    assert both.interval(0.99)[0] < both.interval()[0]


@pytest.fixture(scope="module")
def parts():
    """A policy whose chunk of actions is set by hand, and a simulated bench: what it does must show there."""
    pytest.importorskip("so101_nexus")
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies import make_pre_post_processors
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy

    from zk0.sim.env import SO101PickEnvConfig

    env = SO101PickEnvConfig(setting="left", obs_type="environment_state_agent_pos")
    config = ACTConfig(
        chunk_size=60, n_action_steps=60, dim_model=16, n_heads=2, dim_feedforward=16, n_encoder_layers=1,
        use_vae=False, device="cpu", push_to_hub=False,
        input_features={
            "observation.state": PolicyFeature(FeatureType.STATE, (6,)),
            "observation.environment_state": PolicyFeature(FeatureType.ENV, (7,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (6,))},
    )  # fmt: skip
    return env, ACTPolicy(config), *make_pre_post_processors(config)


def expert_plan(seed: int):
    """What the scripted expert does with the cube of this seed; (steps, 6) degrees."""
    import torch

    from zk0.sim.env import SO101PickEnv
    from zk0.sim.expert import Expert

    env = SO101PickEnv("left", obs_type="environment_state_agent_pos")
    try:
        env.reset(seed=seed)
        return torch.from_numpy(Expert(env.simulation).plan())
    finally:
        env.close()


def test_a_policy_that_copies_the_expert_succeeds_with_that_seed_alone(parts, monkeypatch) -> None:
    env, policy, preprocessor, postprocessor = parts
    plan = expert_plan(seed=5)
    chunk = plan[[min(step, len(plan) - 1) for step in range(60)]]
    monkeypatch.setattr(
        policy, "predict_action_chunk", lambda batch: chunk.expand(len(batch["observation.state"]), 60, 6)
    )
    both = {
        num_envs: roll_out(policy, preprocessor, postprocessor, env, Plan(2, first_seed=5, num_envs=num_envs))
        for num_envs in (1, 2)
    }
    assert both == {1: Success(1, 2), 2: Success(1, 2)}  # seed 5 succeeds; at seed 6 the cube lies elsewhere
    assert roll_out(policy, preprocessor, postprocessor, env, Plan(1, first_seed=6)) == Success(0, 1)


def test_no_episodes_are_refused(parts) -> None:
    env, policy, preprocessor, postprocessor = parts
    with pytest.raises(ValueError, match=re.escape("episodes=0 is too few")):
        roll_out(policy, preprocessor, postprocessor, env, Plan(0, first_seed=0))
