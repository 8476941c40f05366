"""Evaluates the base policy in its own setting: closed-loop success over unseen seeds and action error per joint.

Usage: python scripts/evaluate_base.py --episodes 100
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from scripts.asset_tools import ASSETS, FrameCache, action_error, load_base
from zk0.learning.closed_loop import Plan, roll_out
from zk0.metrics.success import Success
from zk0.sim import BASE, SETTINGS
from zk0.sim.env import JOINTS, SO101PickEnvConfig
from zk0.sim.record import record

FIRST_ROLLOUT_SEED = 90_000
FIRST_HOLD_OUT_SEED = 95_000
HOLD_OUT_EPISODES = 6


def evaluate_success(base: Path, setting: str, episodes: int) -> Success:
    """Closed-loop episodes of LeRobot's own evaluation."""
    env_cfg = SO101PickEnvConfig(setting=setting)
    policy, preprocessor, postprocessor = load_base(base, env_cfg=env_cfg)
    return roll_out(policy, preprocessor, postprocessor, env_cfg, Plan(episodes, FIRST_ROLLOUT_SEED))


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
    success = evaluate_success(args.base.resolve(), args.setting, args.episodes)
    print(f"success in {args.setting}: {success}, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
