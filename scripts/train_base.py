"""Trains the base policy: a tiny SmolVLA that picks up the cube in the setting `base`.

Records the demonstrations into a work folder (kept, and used again, if it exists), trains from scratch through
LeRobot's factories and writes policy, processors and `vlm/` to the output folder. On a CPU.

Usage: python scripts/train_base.py --work work/base --out zk0/assets/base
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lerobot.datasets.compute_stats import aggregate_stats
from lerobot.datasets.lerobot_dataset import LeRobotDatasetMetadata
from lerobot.policies import make_policy, make_pre_post_processors
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from lerobot.utils.feature_utils import dataset_to_policy_features

from scripts.asset_tools import ACTION_KEY, ASSETS, IMAGE_KEYS, STATE_KEY, VLM, FrameCache
from scripts.tiny_vlm import IMAGE_SIZE, LAYERS, build_tiny_vlm
from zk0.sim import BASE, SETTINGS

FIRST_SEEDS = (0, 10_000)  # one recording process each; clients start at 20,000, evaluation at 90,000
EMA_DECAY = 0.998
CHECKPOINT_STEPS = 500
GRADIENT_CLIP = 10.0

Stats = dict[str, dict[str, Any]]


def record_demonstrations(work: Path, episodes: int) -> list[Path]:
    """Records the base's demonstrations in two processes; returns the dataset folders."""
    from zk0.sim.record import record

    roots = [work / f"demonstrations_{seed}" for seed in FIRST_SEEDS]
    context = multiprocessing.get_context("spawn")
    missing = [(root, seed) for root, seed in zip(roots, FIRST_SEEDS, strict=True) if not root.exists()]
    processes = [context.Process(target=record, args=(BASE, episodes // 2, root, seed)) for root, seed in missing]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode:
            raise RuntimeError(f"a recording process ended with exit code {process.exitcode}; see its message above")
    return roots


def make_config(vlm: Path, meta: LeRobotDatasetMetadata) -> SmolVLAConfig:
    """SmolVLA at 1.5 M parameters, reading joints and both cameras."""
    features = dataset_to_policy_features(meta.features)
    return SmolVLAConfig(
        vlm_model_name=str(vlm),
        load_vlm_weights=False,
        num_vlm_layers=LAYERS,
        resize_imgs_with_padding=(IMAGE_SIZE, IMAGE_SIZE),
        tokenizer_max_length=24,
        chunk_size=16,
        n_action_steps=8,
        num_steps=5,
        max_state_dim=8,
        max_action_dim=8,
        train_expert_only=False,
        freeze_vision_encoder=False,
        device="cpu",
        push_to_hub=False,
        input_features={key: features[key] for key in (STATE_KEY, *IMAGE_KEYS)},
    )


def save_base(policy: SmolVLAPolicy, config: SmolVLAConfig, stats: Stats, vlm: Path, out: Path) -> None:
    """Writes the base with relative folder names only, replacing what is there."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    shutil.copytree(vlm, out / VLM)
    used = {key: stats[key] for key in (STATE_KEY, ACTION_KEY, *IMAGE_KEYS)}
    preprocessor, postprocessor = make_pre_post_processors(config, dataset_stats=used)
    for step in preprocessor.steps:
        if hasattr(step, "tokenizer_name"):
            step.tokenizer_name = VLM
    preprocessor.save_pretrained(out)
    postprocessor.save_pretrained(out)
    named = copy.copy(policy.config)
    policy.config.vlm_model_name = VLM
    policy.save_pretrained(out)
    policy.config = named
    for path in out.rglob("*.safetensors"):
        path.chmod(0o644)


def train(
    policy: SmolVLAPolicy, preprocessor: Any, cache: FrameCache, args: argparse.Namespace, save: Callable[[Any], None]
) -> SmolVLAPolicy:
    """Trains the policy; returns a copy with the exponential moving average of its weights."""
    average, steps = copy.deepcopy(policy), args.steps
    parameters = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, betas=(0.9, 0.95), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=args.lr, total_steps=steps, pct_start=0.05)
    generator = torch.Generator().manual_seed(0)
    policy.train()
    started, losses = time.monotonic(), []
    for step in range(1, steps + 1):
        rows = torch.randint(len(cache), (args.batch_size,), generator=generator)
        loss, _ = policy.forward(preprocessor(cache.batch(rows)))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, GRADIENT_CLIP)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        decay = min(EMA_DECAY, step / (step + 10))
        with torch.no_grad():
            for mean, current in zip(average.parameters(), policy.parameters(), strict=True):
                mean.lerp_(current, 1 - decay)
        if step % 100 == 0:
            seconds = time.monotonic() - started
            mean_loss = sum(losses[-100:]) / 100
            print(f"step {step}/{steps} loss {mean_loss:.4f} {seconds / step * 1000:.0f} ms/step", flush=True)
        if step % CHECKPOINT_STEPS == 0:
            save(average)
    return average


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("work/base"), help="demonstrations and checkpoints")
    parser.add_argument("--out", type=Path, default=ASSETS / "base")
    parser.add_argument("--episodes", type=int, default=300)
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    args.work.mkdir(parents=True, exist_ok=True)
    roots = record_demonstrations(args.work, args.episodes)
    metas = [LeRobotDatasetMetadata(root.name, root=root) for root in roots]
    stats = aggregate_stats([meta.stats for meta in metas])
    vlm = args.work / VLM
    shutil.rmtree(vlm, ignore_errors=True)
    build_tiny_vlm(vlm, [f"{setting.task}\n" for setting in SETTINGS.values()])
    config = make_config(vlm, metas[0])
    cache = FrameCache(roots, config.chunk_size)
    policy = make_policy(config, ds_meta=metas[0]).float()
    preprocessor, _ = make_pre_post_processors(config, dataset_stats=stats)
    print(f"{len(cache)} frames, {sum(p.numel() for p in policy.parameters())} parameters", flush=True)

    def checkpoint(average: SmolVLAPolicy) -> None:
        save_base(average, config, stats, vlm, args.work / "checkpoint")

    average = train(policy, preprocessor, cache, args, checkpoint)
    save_base(average, config, stats, vlm, args.out)


if __name__ == "__main__":
    main()
