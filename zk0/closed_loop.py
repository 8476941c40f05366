"""Success of a policy in closed loop: LeRobot's `eval_policy` over given seeds, with a Wilson interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lerobot.envs.configs import EnvConfig

    from zk0.policy import Policy, Processor


@dataclass(frozen=True)
class Success:
    """Successful episodes among those tried; what adds up over several environments."""

    successes: int
    episodes: int

    @property
    def rate(self) -> float:
        """Share of the episodes that succeeded, 0-1."""
        return self.successes / self.episodes

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Wilson's score interval of the rate (Wilson 1927, JASA 22:209), 0-1, by SciPy."""
        from scipy.stats import binomtest

        bounds = binomtest(self.successes, self.episodes).proportion_ci(confidence, method="wilson")
        return float(bounds.low), float(bounds.high)

    def __add__(self, other: Success) -> Success:
        return Success(self.successes + other.successes, self.episodes + other.episodes)

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{self.successes}/{self.episodes} = {self.rate:.1%}, 95 % interval {low:.1%} to {high:.1%}"


def closed_loop_success(
    policy: Policy,
    preprocessor: Processor,
    postprocessor: Processor,
    env: EnvConfig,
    *,
    episodes: int,
    first_seed: int,
    seed: int = 0,
    num_envs: int = 1,
) -> Success:
    """Let the policy act in an environment, once for each of the seeds `first_seed`, `first_seed + 1` and so on.

    Args:
        policy: a LeRobot policy, or PEFT's around one.
        preprocessor: LeRobot's pipeline from observations to the policy's inputs.
        postprocessor: the one from the policy's outputs to actions.
        env: the environment, such as `zk0.sim.env.SO101PickEnvConfig(setting="kitchen")`; its episodes must report
            `is_success`.
        episodes: how many.
        first_seed: of the environment's first episode.
        seed: of the policy's own draws, such as SmolVLA's noise.
        num_envs: environments that are stepped together, so that the policy sees a batch of observations.

    Raises:
        ValueError: fewer than one episode.
    """
    import torch
    from lerobot.envs import make_env, make_env_pre_post_processors
    from lerobot.scripts.lerobot_eval import eval_policy
    from lerobot.utils.random_utils import seeded_context

    if episodes < 1:
        raise ValueError(f"episodes={episodes} is too few; a rate needs at least 1")
    env_preprocessor, env_postprocessor = make_env_pre_post_processors(env, policy.config)
    vector = make_env(env, n_envs=min(num_envs, episodes))[env.type][0]
    try:
        with torch.no_grad(), seeded_context(seed):
            info = eval_policy(
                vector,
                policy,
                env_preprocessor=env_preprocessor,
                env_postprocessor=env_postprocessor,
                preprocessor=preprocessor,
                postprocessor=postprocessor,
                n_episodes=episodes,
                start_seed=first_seed,
            )
    finally:
        vector.close()
    return Success(sum(bool(episode["success"]) for episode in info["per_episode"]), episodes)
