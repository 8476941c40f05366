"""Evaluates the base policy in its own setting: closed-loop success over unseen seeds and action error per joint.

Usage: python scripts/evaluate_base.py --episodes 100
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path

import torch
from asset_tools import ASSETS, FrameCache, action_error, load_base
from lerobot.envs import make_env, make_env_pre_post_processors
from lerobot.scripts.lerobot_eval import eval_policy

from zk0.sim import BASE, SETTINGS
from zk0.sim.env import JOINTS, SO101PickEnvConfig
from zk0.sim.record import record

FIRST_ROLLOUT_SEED = 90_000
FIRST_HOLD_OUT_SEED = 95_000
HOLD_OUT_EPISODES = 6


def wilson_interval(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a success rate."""
    rate = successes / trials
    centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials)) / (1 + z * z / trials)
    return centre - half, centre + half


def evaluate_success(base: Path, setting: str, episodes: int) -> int:
    """Number of successful closed-loop episodes of LeRobot's own evaluation."""
    env_cfg = SO101PickEnvConfig(setting=setting)
    policy, preprocessor, postprocessor = load_base(base, env_cfg=env_cfg)
    env_preprocessor, env_postprocessor = make_env_pre_post_processors(env_cfg, policy.config)
    env = make_env(env_cfg, n_envs=1)[env_cfg.type][0]
    torch.manual_seed(0)
    try:
        with torch.no_grad():
            info = eval_policy(
                env,
                policy,
                env_preprocessor=env_preprocessor,
                env_postprocessor=env_postprocessor,
                preprocessor=preprocessor,
                postprocessor=postprocessor,
                n_episodes=episodes,
                start_seed=FIRST_ROLLOUT_SEED,
            )
    finally:
        env.close()
    return sum(bool(episode["success"]) for episode in info["per_episode"])


def evaluate_error(base: Path, setting: str) -> torch.Tensor:
    """Mean absolute action error per joint (6,) on freshly recorded episodes."""
    with tempfile.TemporaryDirectory() as folder:
        root = record(setting, HOLD_OUT_EPISODES, Path(folder) / setting, FIRST_HOLD_OUT_SEED)
        policy, preprocessor, postprocessor = load_base(base, env_cfg=SO101PickEnvConfig(setting=setting))
        cache = FrameCache([root], policy.config.chunk_size)
        return action_error(policy, preprocessor, postprocessor, cache, torch.arange(len(cache)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=ASSETS / "base")
    parser.add_argument("--setting", choices=sorted(SETTINGS), default=BASE)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    error = evaluate_error(args.base.resolve(), args.setting)
    joints = ", ".join(f"{joint} {value:.2f}" for joint, value in zip(JOINTS, error.tolist(), strict=True))
    print(f"action error in {args.setting}: arm {error[:5].mean():.2f} degrees ({joints})", flush=True)
    started = time.monotonic()
    successes = evaluate_success(args.base.resolve(), args.setting, args.episodes)
    low, high = wilson_interval(successes, args.episodes)
    print(
        f"success in {args.setting}: {successes}/{args.episodes} = {successes / args.episodes:.0%}, 95 % interval "
        f"{low:.0%}-{high:.0%}, {time.monotonic() - started:.0f} s"
    )


if __name__ == "__main__":
    main()
