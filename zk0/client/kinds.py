"""What a client does in a run: the functions behind every executor, one per kind of work."""

import contextlib
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lerobot.utils.random_utils import set_seed
from loguru import logger
from numpy.typing import NDArray

from zk0.aggregation import norms
from zk0.client.inputs import (
    continued_tensors,
    dataset_of,
    first_policy,
    held_out_frames,
    load_global,
    pooled_frames,
    read_tensors,
    tensor_names,
    training_frames,
)
from zk0.client.progress import progress_to
from zk0.config import RunConfig
from zk0.data.datasets import open_metadata, split_episodes
from zk0.data.pooled import pooled_training
from zk0.data.statistics import flatten_stats, training_statistics
from zk0.layout import VIDEOS_FOLDER
from zk0.learning import closed_loop, environments, training
from zk0.learning.checkpoint import FitCheckpoint
from zk0.learning.evaluation import evaluate, replay
from zk0.learning.exchange import exchanged_tensors, update_tensors
from zk0.memory.sampler import MemorySampler
from zk0.memory.soft_limit import SoftLimit
from zk0.metrics.scores import FULL, QUICK
from zk0.seeding import derive_seed
from zk0.work.records import CLIPPED, POOLED, ClientTask


@dataclass(frozen=True)
class Outcome:
    """What a piece of work gave: tensors to exchange, its weight, its metrics, and what stays with the client."""

    tensors: dict[str, NDArray[Any]] | None
    num_examples: int
    metrics: dict[str, Any]
    optimizer: dict[str, NDArray[Any]] | None = None
    """The optimizer's state, where the client keeps it for its next fit."""


def initialise(task: ClientTask, config: RunConfig, _sampler: MemorySampler) -> Outcome:
    """Make the exchanged tensors of round 0: fresh adapters on the base, or a policy made from scratch."""
    meta = open_metadata(config.clients[0])
    tensors = exchanged_tensors(first_policy(task, config, meta))
    if config.continue_from is not None:
        tensors = continued_tensors(config, tensors)
    size = sum(value.nbytes for value in tensors.values())
    return Outcome(tensors, 0, {"exchanged_tensors": len(tensors), "exchanged_bytes": size})


def statistics(task: ClientTask, config: RunConfig, _sampler: MemorySampler) -> Outcome:
    """Counts and moments of the training episodes, and nothing else of the recordings."""
    dataset = dataset_of(config, task.client)
    meta = open_metadata(dataset)
    episodes, _ = split_episodes(meta.total_episodes, config.evaluation.holdout_episodes)
    stats = training_statistics(meta, config.evaluation.holdout_episodes)
    renamed = {dataset.rename_map.get(key, key): value for key, value in stats.items()}
    return Outcome(flatten_stats(renamed), sum(meta.episodes["length"][: len(episodes)]), {})


def train(task: ClientTask, config: RunConfig, sampler: MemorySampler) -> Outcome:
    """Fit the global policy to this client's training episodes for one round."""
    dataset, run_dir = dataset_of(config, task.client), Path(task.run_dir)
    meta = open_metadata(dataset)
    built, preprocessor, _ = load_global(task, config, dataset, meta)
    if task.client == POOLED:
        frames, plan = pooled_frames(config, built.config), pooled_training(config)
    else:
        plan = config.training_of(task.client, task.steps)
        frames = training_frames(config, dataset, meta, built.config, plan.steps)
    seed = derive_seed(config.seed, task.server_round, task.client, "train")
    set_seed(seed)
    sampler.enter("train")
    outcome = training.fit(
        built,
        preprocessor,
        frames,
        plan,
        training.LocalRound(
            seed=seed,
            # The schedule's part that belongs to this round, whatever the number of steps that go through it.
            first_step=(task.server_round - 1) * plan.steps,
            total_steps=config.federation.num_rounds * plan.steps,
            lr_scale=task.lr_scale,
            proximal_mu=task.proximal_mu,
            micro_batch_size=task.micro_batch_size,
            optimizer_state=None if task.optimizer is None else read_tensors(run_dir, task.optimizer),
        ),
        progress_to(task, plan.steps, sampler),
        FitCheckpoint(task, config.checkpoint.every_steps),
        SoftLimit(config.memory.soft_limit, sampler),
    )
    tail = outcome.losses[-10:]
    metrics = {
        "loss": sum(tail) / len(tail),
        "first_loss": outcome.losses[0],
        "lr": outcome.lr,
        **({"grad_norm": outcome.grad_norm} if math.isfinite(outcome.grad_norm) else {}),  # fp16: a step left out
        "steps": len(outcome.losses),
        "steps_per_s": len(outcome.losses) / (outcome.data_s + outcome.update_s),
        "data_s": outcome.data_s,
        "update_s": outcome.update_s,
        "micro_batch_size": task.micro_batch_size or config.training.micro_batch_size or config.training.batch_size,
    }
    update = update_tensors(built, config, None if task.incoming is None else tensor_names(run_dir, task.incoming))
    if task.clipping_norm is not None and task.incoming is not None:
        update, larger = norms.clipped(update, read_tensors(run_dir, task.incoming), task.clipping_norm)
        metrics[CLIPPED] = float(larger)
    return Outcome(update, frames.num_frames, metrics, outcome.optimizer_state)


def evaluate_held_out(task: ClientTask, config: RunConfig, sampler: MemorySampler) -> Outcome:
    """Evaluate the global policy on a client's held-out episodes, or on all of a setting that no client trains on."""
    dataset = dataset_of(config, task.client)
    meta = open_metadata(dataset)
    built, preprocessor, postprocessor = load_global(task, config, dataset, meta)
    frames = held_out_frames(config, dataset, meta, built.config)
    seed = derive_seed(config.seed, 0, task.client, "evaluate")
    sampler.enter("evaluate")
    parts = (built, preprocessor, postprocessor, frames)
    full, size = config.is_full(task.server_round), task.micro_batch_size
    figures = partial(evaluate, *parts, seed=seed, micro_batch_size=size, data=config.data)
    metrics = figures(config.evaluation if full else config.evaluation.quickly)
    if full and config.evaluation.full_every != 1:  # what a quick round is compared with
        metrics[QUICK] = figures(config.evaluation.quickly)
    metrics["evaluation"] = FULL if full else QUICK
    joints = None
    if full and config.report.joint_charts:
        joints = replay(*parts, batch_size=config.evaluation.batch_size, seed=seed, micro_batch_size=size)
    return Outcome(joints, metrics.pop("num_examples"), metrics)


def rollout(task: ClientTask, config: RunConfig, sampler: MemorySampler) -> Outcome:
    """Let the global policy act in a simulated environment: the same episodes and noise in every round.

    As on any setting that no client trains on, its inputs are normalised by the federated statistics or the base's.
    """
    environment = next(item for item in config.evaluation.environments if item.name == task.client)
    env = environments.env_config(environment)
    parts = load_global(task, config, environment, env)
    videos_dir = task.folder / VIDEOS_FOLDER
    shutil.rmtree(videos_dir, ignore_errors=True)  # of an attempt that was killed
    sampler.enter("rollout")
    plan = closed_loop.Plan(
        episodes=environment.episodes,
        first_seed=environment.first_seed,
        seed=derive_seed(config.seed, 0, task.client, "rollout"),
        videos=environment.videos,
        videos_dir=videos_dir,
    )
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):  # a progress bar for every step
        success = closed_loop.roll_out(*parts, env, plan)
    logger.info("success in {}: {}", task.client, success)
    if (drawn := len(list(videos_dir.glob("*.mp4")))) < environment.videos:
        logger.warning("{} of {} videos could be written to {}", drawn, environment.videos, videos_dir)
    return Outcome(None, success.episodes, success.figures())


WORK: dict[str, Callable[[ClientTask, RunConfig, MemorySampler], Outcome]] = {
    "init": initialise,
    "statistics": statistics,
    "train": train,
    "evaluate": evaluate_held_out,
    "rollout": rollout,
}
