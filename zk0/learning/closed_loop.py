"""Success of a policy in closed loop: LeRobot's `eval_policy` over given seeds, with a Wilson interval."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zk0.metrics.success import Success

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv
    from lerobot.envs.configs import EnvConfig

    from zk0.learning.policy import Policy, Processor


@dataclass(frozen=True)
class Plan:
    """Which episodes the policy acts in, and what is kept of them to look at."""

    episodes: int
    """How many."""
    first_seed: int
    """Of the environment's first episode; the others follow, one by one."""
    seed: int = 0
    """Of the policy's own draws, such as SmolVLA's noise."""
    num_envs: int = 1
    """Environments that are stepped together, so that the policy sees a batch of observations."""
    videos: int = 0
    """How many of the first episodes are written as mp4."""
    videos_dir: Path | None = None
    """Where to: `eval_episode_<n>.mp4`, by LeRobot, which needs no ffmpeg of the system's."""


@contextmanager
def opened(env: EnvConfig, num_envs: int = 1) -> Iterator[VectorEnv]:
    """Make LeRobot's environment, and close it whatever happens.

    One at a time in a process: MuJoCo renders wrong images in a second one while the first is open.

    Raises:
        ValueError: the type stands for a suite of several tasks.
    """
    from lerobot.envs import close_envs, make_env

    suites = make_env(env, n_envs=num_envs)
    try:
        vectors = [vector for suite in suites.values() for vector in suite.values()]
        if len(vectors) != 1:
            raise ValueError(f"it is a suite of {len(vectors)} tasks; name one of them by its options")
        yield vectors[0]
    finally:
        close_envs(suites)


def roll_out(policy: Policy, preprocessor: Processor, postprocessor: Processor, env: EnvConfig, plan: Plan) -> Success:
    """Let the policy act in an environment, once for each of the seeds `first_seed`, `first_seed + 1` and so on.

    Args:
        policy: a LeRobot policy, or PEFT's around one.
        preprocessor: LeRobot's pipeline from observations to the policy's inputs.
        postprocessor: the one from the policy's outputs to actions.
        env: the environment, such as `zk0.sim.env.SO101PickEnvConfig(setting="kitchen")`; its episodes must report
            `is_success`.
        plan: the episodes.

    Raises:
        ValueError: fewer than one episode, or a suite of several tasks.
    """
    import torch
    from lerobot.envs import make_env_pre_post_processors
    from lerobot.scripts.lerobot_eval import eval_policy
    from lerobot.utils.random_utils import seeded_context

    if plan.episodes < 1:
        raise ValueError(f"episodes={plan.episodes} is too few; a rate needs at least 1")
    env_preprocessor, env_postprocessor = make_env_pre_post_processors(env, policy.config)
    with opened(env, min(plan.num_envs, plan.episodes)) as vector, torch.no_grad(), seeded_context(plan.seed):
        info = eval_policy(
            vector,
            policy,
            env_preprocessor=env_preprocessor,
            env_postprocessor=env_postprocessor,
            preprocessor=preprocessor,
            postprocessor=postprocessor,
            n_episodes=plan.episodes,
            start_seed=plan.first_seed,
            max_episodes_rendered=plan.videos,
            videos_dir=plan.videos_dir,
        )
    return Success(sum(bool(episode["success"]) for episode in info["per_episode"]), plan.episodes)
