"""The estimate before a run: what a fit will need, from real steps of one and of a few frames that were tried."""

import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from zk0.config import RunConfig, size_in_bytes
from zk0.errors import ConfigError
from zk0.learning import training
from zk0.learning.policy import Policy, Processor
from zk0.memory.cgroup import of_process
from zk0.memory.estimate import MemoryEstimate
from zk0.memory.usage import TreeMeter, container_share, high_water_bytes, peak_vram, reset_high_water, snapshot
from zk0.preflight.trial import Trial
from zk0.preflight.trials import Step

FRAMES = (1, 1, 4)
"""Frames of the steps tried; the first one only warms up, and two sizes tell what is fixed from what grows."""


def step_of(config: RunConfig, trial: Trial) -> Step:
    """Try small steps of the first client's fit, in this process, and read what they cost.

    What is counted is the GPU's memory where the fit uses one, else that of this process.

    Args:
        config: with everything settled that depends on the machine.
        trial: of the run's policy, which learns from it.

    Raises:
        ConfigError: not even one frame fits.
        DatasetError, PolicyError: the data or the policy cannot be used.
    """
    try:
        parts = trial.policy, trial.first.preprocessor, trial.first.frames
        peaks = [_peak_of_a_step(*parts, config, size) for size in FRAMES]
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ConfigError(
            f"memory: one frame at once does not fit ({str(error).splitlines()[0] if str(error) else 'no memory'}); "
            "free some memory, use a smaller policy, or lower peft.r"
        ) from error
    growth = max(0, peaks[2] - peaks[1]) // (FRAMES[2] - FRAMES[1])
    return Step(fixed=max(0, peaks[1] - growth), per_frame=growth)


def estimate(config: RunConfig, step: Step, *, in_container: bool = False) -> MemoryEstimate:
    """What a step needs beside what there is now.

    Args:
        config: with everything settled that depends on the machine.
        step: what was tried, now or before.
        in_container: whether fits will be in containers, whose memory is bounded.
    """
    budget, whose = _budget(config, in_container=in_container)
    return MemoryEstimate(fixed=step.fixed, per_frame=step.per_frame, budget=budget, whose=whose)


def _peak_of_a_step(
    built: Policy, preprocessor: Processor, frames: LeRobotDataset, config: RunConfig, size: int
) -> int:
    """Bytes that one optimizer step of `size` frames needs at its highest."""
    changes = {"steps": 1, "batch_size": size, "micro_batch_size": None, "num_workers": 0}
    torch.set_num_threads(config.training.num_threads)
    reset_high_water()
    local = training.LocalRound(seed=0, first_step=0, total_steps=1)
    training.fit(built, preprocessor, frames, config.training.model_copy(update=changes), local)
    if config.policy.device == "cuda":
        return peak_vram() or 0
    tree, rss, _ = TreeMeter().read()
    return tree + max(0, high_water_bytes() - rss)


def _budget(config: RunConfig, *, in_container: bool) -> tuple[int, str]:
    """What one fit may use, of what there is now for all that run at the same time."""
    share, whose = _share(config, in_container=in_container)
    limit = config.memory.soft_limit
    if isinstance(limit, str):
        return min(share, size_in_bytes(limit)), whose
    return int(share * (limit or 1)), whose


def _share(config: RunConfig, *, in_container: bool) -> tuple[int, str]:
    """One place's part of what there is, without the soft limit, and whose it is."""
    places = config.executor.places
    if config.policy.device == "cuda":
        free, _ = torch.cuda.mem_get_info()
        there = free + torch.cuda.memory_reserved()
        return there // (1 if in_container else places), "of the GPU"  # a container has its GPU to itself
    tree, _, _ = TreeMeter().read()  # of this process, which will be gone
    if in_container:
        if config.executor.docker.mem_limit is not None:
            return size_in_bytes(config.executor.docker.mem_limit), "of the container"
        now = snapshot()
        share = container_share(now.ram_total_bytes, now.ram_available_bytes + tree, places)
        return share, "of the container"
    group = of_process()
    usage = group.usage() if group else None
    there = tree + (usage[1] - usage[0] if usage else snapshot().ram_available_bytes)
    return there // places, "of the cgroup" if usage else "of this machine"
