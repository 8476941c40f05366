"""The local steps of one client in one round: LeRobot's update, with FedProx's proximal term on the loss."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from lerobot.configs.default import DatasetConfig as LeRobotDatasetConfig
from lerobot.configs.train import TrainPipelineConfig
from lerobot.datasets import EpisodeAwareSampler, compute_sampler_state
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.optim.factory import make_optimizer_and_scheduler
from lerobot.scripts.lerobot_train import update_policy
from lerobot.utils.logging_utils import AverageMeter, MetricsTracker
from lerobot.utils.utils import cycle
from numpy.typing import NDArray
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from zk0.config import TrainingConfig
from zk0.errors import ClientError
from zk0.learning import optimizer_state
from zk0.learning.checkpoint import FitCheckpoint, LiveFit
from zk0.learning.micro_batches import MicroBatchedPolicy
from zk0.learning.policy import Policy, Processor
from zk0.learning.schedules import counting, go_to, scheduler_config, tell

OnStep = Callable[[int, float], None]
"""Called after every step with (steps done, loss)."""
OverLimit = Callable[[], str | None]
"""Tells between two steps why the fit must end for want of memory; None where it need not."""


@dataclass(frozen=True)
class LocalRound:
    """What distinguishes one client's fit in one round from all others."""

    seed: int
    """Seeds the order of the frames; torch's global generator must be seeded by the caller."""
    first_step: int
    """Position in the schedule over the whole run: (server_round - 1) * steps, whatever rounds the client sat out."""
    total_steps: int
    """Length of that schedule: num_rounds * steps."""
    lr_scale: float = 1.0
    """What the learning rate is multiplied by, on top of the schedule."""
    proximal_mu: float = 0.0
    """FedProx's mu."""
    micro_batch_size: int | None = None
    """Frames at once, where memory allows fewer than the config asks for; None for what the config says."""
    optimizer_state: Mapping[str, NDArray[Any]] | None = None
    """The optimizer's state after the client's last fit, where it keeps it; None begins afresh."""


@dataclass(frozen=True)
class FitOutcome:
    """What the local steps gave, beside the weights that they changed in place."""

    losses: list[float]
    """Loss of every step, without the proximal term."""
    lr: float
    """Learning rate of the last step."""
    grad_norm: float
    """Gradient norm of the last step, before clipping."""
    data_s: float
    """Seconds spent on reading and pre-processing batches."""
    update_s: float
    """Seconds spent on the updates."""
    optimizer_state: dict[str, NDArray[Any]] | None
    """What the client's next fit goes on from, where the config says that it is kept."""


class ProximalPolicy(nn.Module):
    """A policy whose loss carries FedProx's proximal term.

    The local objective of FedProx (Li et al. 2020, arXiv:1812.06127, eq. 2) is

        h(w) = F(w) + mu/2 ||w - w_t||^2

    with w_t the global weights that the round started from. Only trainable parameters count: the others cannot move.

    Args:
        policy: the policy, holding w_t at this moment.
        mu: weight of the term; its gradient is mu (w - w_t).
    """

    def __init__(self, policy: Policy, mu: float) -> None:
        super().__init__()
        self.policy = policy
        self.mu = mu
        if callable(getattr(policy, "update", None)):
            self.update = policy.update  # LeRobot calls it after each step, where a policy has one
        # Copies, not references: on one device an alias would follow the live weights and the term would stay zero.
        self._global = [(value, value.detach().clone()) for value in policy.parameters() if value.requires_grad]

    def forward(self, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
        """Loss plus proximal term (scalar tensor), and the policy's own outputs with `policy_loss` added."""
        loss, outputs = self.policy.forward(batch)
        outputs = {**(outputs or {}), "policy_loss": loss.item()}
        if self.mu:
            distance = torch.stack([(value - start).pow(2).sum() for value, start in self._global]).sum()
            loss = loss + 0.5 * self.mu * distance
        return loss, outputs


def fit(
    policy: Policy,
    preprocessor: Processor,
    dataset: LeRobotDataset,
    training: TrainingConfig,
    local: LocalRound,
    on_step: OnStep | None = None,
    checkpoint: FitCheckpoint | None = None,
    over_limit: OverLimit | None = None,
) -> FitOutcome:
    """Run the local steps of one round, or those after its checkpoint; the policy is changed in place.

    Args:
        policy: holds the global weights of the round.
        preprocessor: LeRobot's input pipeline.
        dataset: the client's training episodes.
        training: steps, batch size, optimizer options.
        local: seed, position in the schedule, mu.
        on_step: told about every step.
        checkpoint: where the fit's state is found and saved.
        over_limit: asked after every step but the last.

    Raises:
        ClientError: the loss is not finite (cause `bad_data`), or `over_limit` said so (`out_of_memory`).
    """
    device = torch.device(policy.config.device)
    accelerator = _accelerator(device, training)
    optimizer, scheduler, clip = _make_optimizer(policy, dataset, training, local)
    if local.optimizer_state is not None:
        optimizer_state.from_arrays(optimizer, local.optimizer_state)
    _scale_lr(optimizer, scheduler, local.lr_scale)
    model = _model(policy, training, local, accelerator).to(device)  # copies w_t, which a checkpoint would replace
    model, stepper = accelerator.prepare(model, optimizer)  # for mixed precision; else they are as before
    tracker = _tracker(dataset, training, accelerator)
    live = LiveFit(policy, optimizer, scheduler, accelerator.scaler)
    if checkpoint is not None:
        checkpoint.restore(live)
    counters, batches = counting(policy), _batches(policy, preprocessor, dataset, training, local.seed, live.step)
    for step in range(live.step + 1, training.steps + 1):
        started = time.perf_counter()
        batch = next(batches)
        live.data_s += time.perf_counter() - started
        tell(counters, local.first_step + step - 1)
        tracker, outputs = update_policy(
            tracker, model, batch, stepper, clip, accelerator=accelerator, lr_scheduler=scheduler
        )
        live.update_s += tracker.update_s.val
        live.losses.append(_finite(outputs["policy_loss"], step))
        if on_step is not None:
            on_step(step, live.losses[-1])
        if checkpoint is not None and step < training.steps:  # after the last one comes the result itself
            checkpoint.after_step(live)
        if over_limit is not None and step < training.steps and (why := over_limit()) is not None:
            if checkpoint is not None:
                checkpoint.save(live)
            raise ClientError("out_of_memory", f"{why}; ended after step {step} of {training.steps}")
    kept = optimizer_state.to_arrays(optimizer) if training.optimizer_state == "keep" else None
    return FitOutcome(live.losses, tracker.lr.val, tracker.grad_norm.val, live.data_s, live.update_s, kept)


def _accelerator(device: torch.device, training: TrainingConfig) -> Accelerator:
    return Accelerator(step_scheduler_with_optimizer=False, cpu=device.type == "cpu", mixed_precision=training.amp)


def _model(policy: Policy, training: TrainingConfig, local: LocalRound, accelerator: Accelerator) -> ProximalPolicy:
    size = local.micro_batch_size or training.micro_batch_size or training.batch_size
    if size >= training.batch_size:
        return ProximalPolicy(policy, local.proximal_mu)
    return ProximalPolicy(MicroBatchedPolicy(policy, size, accelerator), local.proximal_mu)


def _batches(
    policy: Policy, preprocessor: Processor, dataset: LeRobotDataset, training: TrainingConfig, seed: int, done: int
) -> Iterator[dict[str, Any]]:
    """Pre-processed batches without end, from the one after `done` steps; their order is a function of the seed."""
    sampler = EpisodeAwareSampler(
        dataset.meta.episodes["dataset_from_index"],
        dataset.meta.episodes["dataset_to_index"],
        episode_indices_to_use=dataset.episodes,
        drop_n_last_frames=getattr(policy.config, "drop_n_last_frames", 0),
        shuffle=True,
        seed=seed,
        absolute_to_relative_idx=dataset.absolute_to_relative_idx,
    )
    sampler.load_state_dict(compute_sampler_state(done, len(sampler), training.batch_size, num_processes=1))
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=training.batch_size,
        sampler=sampler,
        num_workers=training.num_workers,
        multiprocessing_context="spawn" if training.num_workers else None,
        persistent_workers=training.num_workers > 0,
        pin_memory=policy.config.device == "cuda",
        # Its own generator: making the iterator draws a seed, from torch's global generator if it had none.
        generator=torch.Generator().manual_seed(seed),
    )
    for batch in cycle(loader):
        yield prepare_batch(batch, preprocessor, dataset)


def prepare_batch(batch: dict[str, Any], preprocessor: Processor, dataset: LeRobotDataset) -> dict[str, Any]:
    """Camera frames from uint8 [0, 255] to float32 [0, 1], then LeRobot's pre-processor."""
    for key in dataset.meta.camera_keys:
        if key in batch and batch[key].dtype == torch.uint8:
            batch[key] = batch[key].to(torch.float32) / 255.0
    prepared: dict[str, Any] = preprocessor(batch)
    return prepared


def _make_optimizer(
    policy: Policy, dataset: LeRobotDataset, training: TrainingConfig, local: LocalRound
) -> tuple[Optimizer, LRScheduler | None, float]:
    """LeRobot's optimizer and its schedule over the whole run, at this round's position; and the clipping norm."""
    # Only its schedule's length is read; naming a decoder keeps LeRobot from trying, and mourning, torchcodec.
    source = LeRobotDatasetConfig(repo_id=dataset.repo_id, video_backend="pyav")
    config = TrainPipelineConfig(dataset=source, policy=policy.config, steps=local.total_steps)
    config.optimizer = policy.config.get_optimizer_preset()
    if training.lr is not None:
        config.optimizer.lr = training.lr
    preset = policy.config.get_scheduler_preset()
    config.scheduler = scheduler_config(training, preset, config.optimizer.lr, local.total_steps)
    optimizer, scheduler = make_optimizer_and_scheduler(config, policy)
    if scheduler is not None:
        go_to(scheduler, optimizer, local.first_step)
    clip = config.optimizer.grad_clip_norm if training.grad_clip_norm is None else training.grad_clip_norm
    if training.amp == "fp16" and not clip:
        clip = math.inf  # with 0 LeRobot would report the norm of gradients that are still scaled
    return optimizer, scheduler, clip


def _scale_lr(optimizer: Optimizer, scheduler: LRScheduler | None, factor: float) -> None:
    """Multiply the learning rate of every parameter group, now and in all steps to come."""
    for group in optimizer.param_groups:
        for key in {"lr", "initial_lr"} & group.keys():
            group[key] *= factor
    if scheduler is not None:
        scheduler.base_lrs = [rate * factor for rate in scheduler.base_lrs]


def _tracker(dataset: LeRobotDataset, training: TrainingConfig, accelerator: Accelerator) -> MetricsTracker:
    meters = {name: AverageMeter(name) for name in ("loss", "grad_norm", "lr", "update_s")}
    if torch.cuda.is_available():
        meters["gpu_mem_gb"] = AverageMeter("gpu_mem_gb")
    return MetricsTracker(
        training.batch_size, dataset.num_frames, dataset.num_episodes, meters, accelerator=accelerator
    )


def _finite(loss: float, step: int) -> float:
    if not math.isfinite(loss):
        raise ClientError(
            "bad_data", f"the loss is {loss} at step {step}; look at this client's data, or lower training.lr"
        )
    return loss
