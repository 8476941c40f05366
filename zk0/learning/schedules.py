"""The learning rate over the whole run: which of LeRobot's schedules a config means; and warm restarts, which it lacks.

Every schedule is a function of the step alone, so a fit that begins in the middle of the run sets its position.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from lerobot.optim.schedulers import (
    ConstantWithWarmupSchedulerConfig,
    CosineDecayWithWarmupSchedulerConfig,
    LRSchedulerConfig,
)
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from zk0.config import TrainingConfig

_COUNT = "optimized_steps"
"""VQ-BeT's name of it."""


@dataclass
class CosineWarmRestartsSchedulerConfig(LRSchedulerConfig):  # type: ignore[misc] # LeRobot ships no types
    """A linear warm-up, then SGDR (Loshchilov and Hutter 2017, arXiv:1608.03983, eq. 5) with periods of one length.

    With t the steps since the warm-up, modulo restart_steps T,

        lr = decay_lr + (peak_lr - decay_lr) (1 + cos(pi t / T)) / 2

    as torch's CosineAnnealingWarmRestarts has it, which knows no warm-up. The warm-up is that of LeRobot's
    `cosine_decay_with_warmup`, from 1 / (num_warmup_steps + 1) of the peak.
    """

    num_warmup_steps: int
    restart_steps: int
    peak_lr: float
    decay_lr: float

    def build(self, optimizer: Optimizer, num_training_steps: int) -> LambdaLR:  # noqa: ARG002 - as long as it is asked
        """The schedule of an optimizer whose groups hold their peak rates."""
        floor = self.decay_lr / self.peak_lr

        def share_of_peak(step: int) -> float:
            if step < self.num_warmup_steps:
                return (step + 1) / (self.num_warmup_steps + 1)
            position = (step - self.num_warmup_steps) % self.restart_steps
            return floor + (1 - floor) * (1 + math.cos(math.pi * position / self.restart_steps)) / 2

        return LambdaLR(optimizer, share_of_peak)


def scheduler_config(
    training: TrainingConfig, preset: LRSchedulerConfig | None, lr: float, total_steps: int
) -> LRSchedulerConfig | None:
    """The schedule that the config names; None for a rate that stays.

    Args:
        training: the config.
        preset: the policy's own schedule.
        lr: the peak learning rate.
        total_steps: steps of the client in the whole run.
    """
    if training.scheduler == "cosine":
        return CosineDecayWithWarmupSchedulerConfig(training.warmup_steps, total_steps, lr, training.decay_lr)
    if training.scheduler == "cosine_warm_restarts":
        assert training.restart_steps is not None  # the config saw to it
        return CosineWarmRestartsSchedulerConfig(training.warmup_steps, training.restart_steps, lr, training.decay_lr)
    if training.scheduler == "constant":
        return ConstantWithWarmupSchedulerConfig(training.warmup_steps) if training.warmup_steps else None
    if training.lr is not None and preset is not None and hasattr(preset, "peak_lr"):
        preset.decay_lr *= training.lr / preset.peak_lr
        preset.peak_lr = training.lr
    return preset


def counting(policy: nn.Module) -> list[nn.Module]:
    """Modules that count their steps in a number of their own, which neither a checkpoint nor an update has.

    VQ-BeT's first phase ends by such a one: without `tell` it would begin anew in every round, and in a resumed fit.
    """
    return [module for module in policy.modules() if isinstance(getattr(module, _COUNT, None), int)]


def tell(modules: Iterable[nn.Module], step: int) -> None:
    """Tell them how many steps of the whole run are done."""
    for module in modules:
        setattr(module, _COUNT, step)


def go_to(scheduler: LRScheduler, optimizer: Optimizer, step: int) -> None:
    """Let a new schedule stand where so many steps have left it: its position is set, not replayed.

    A fresh one in every round would begin the warm-up and the cosine anew.
    """
    if step:
        scheduler.last_epoch = step - 1
        optimizer.step()  # without gradients this changes nothing; it tells torch that the order is right
        scheduler.step()
