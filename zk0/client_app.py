"""What a client does in a run: the functions behind every executor, one per kind of work."""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.envs.configs import EnvConfig
from lerobot.policies import make_policy, make_pre_post_processors
from lerobot.utils.random_utils import set_seed
from loguru import logger
from numpy.typing import NDArray
from safetensors.numpy import load_file

from zk0 import atomic, closed_loop, data, environments, foreign, policy, start, training
from zk0.atomic import file_sha256
from zk0.config import DatasetConfig, EnvironmentConfig, RunConfig, validate_config
from zk0.errors import ClientError, ConfigError
from zk0.evaluation import evaluate, replay
from zk0.fit_checkpoint import FitCheckpoint
from zk0.memory import gib, peak_rss_bytes, peak_vram
from zk0.memory_sampler import MemorySampler, peak_metrics
from zk0.pooled import PooledDataset, pooled_training
from zk0.records import POOLED, VIDEOS_FOLDER, ArtifactRef, ClientResult, ClientTask
from zk0.results import write_result
from zk0.scores import FULL, QUICK
from zk0.seeding import derive_seed
from zk0.soft_limit import SoftLimit

Source = DatasetConfig | EnvironmentConfig
"""What the policy's inputs come from."""
PROGRESS_INTERVAL_S = 0.5


@dataclass(frozen=True)
class Outcome:
    """What a piece of work gave: tensors to exchange, its weight, its metrics, and what stays with the client."""

    tensors: dict[str, NDArray[Any]] | None
    num_examples: int
    metrics: dict[str, Any]
    optimizer: dict[str, NDArray[Any]] | None = None
    """The optimizer's state, where the client keeps it for its next fit."""


def run_task(task: ClientTask) -> ClientResult:
    """Do one piece of work and leave its result in the task's folder; the same for every executor.

    Raises:
        ClientError: typed by cause.
        DatasetError, PolicyError: this client's data or the policy cannot be used.
    """
    started = time.perf_counter()
    config = read_config(Path(task.run_dir))
    task.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(config.training.num_threads)
    torch.use_deterministic_algorithms(True, warn_only=config.policy.device == "cuda")
    evaluates = task.kind in ("evaluate", "rollout")
    seed_round = 0 if evaluates else task.server_round  # evaluation: the same noise in every round
    set_seed(derive_seed(config.seed, seed_round, task.client, task.kind))
    logger.info("{} starts in round {}", task.kind, task.server_round)
    with MemorySampler(task.folder, config.memory.sample_interval_s, "load") as sampler:
        outcome = WORK[task.kind](task, config, sampler)
        result = write_result(
            task,
            tensors=outcome.tensors,
            optimizer=outcome.optimizer,
            num_examples=outcome.num_examples,
            metrics=outcome.metrics | peak_metrics(sampler.take_peaks()),
            duration_s=time.perf_counter() - started,
            peak_rss_bytes=peak_rss_bytes(),
        )
    if task.kind == "train":
        FitCheckpoint(task).remove()
    used = f"{gib(result.metrics['peak_ram_bytes'])} ({result.metrics['peak_ram_percent']} %) of memory"
    if vram := result.metrics.get("peak_vram_bytes"):
        used += f", {gib(vram)} ({result.metrics['peak_vram_percent']} %) of the GPU's"
    logger.info("{} done in {:.1f} s: {} examples; at most {}", task.kind, result.duration_s, result.num_examples, used)
    return result


def initialise(task: ClientTask, config: RunConfig, _sampler: MemorySampler) -> Outcome:
    """Make the exchanged tensors of round 0: fresh adapters on the base, or a policy made from scratch."""
    dataset = config.clients[0]
    meta = data.open_metadata(dataset)
    if config.policy.path is None:
        _create_base(task, config, meta)
    built, _ = _load_policy(task, config, dataset, meta)
    tensors = policy.exchanged_tensors(built)
    if config.continue_from is not None:
        tensors = _continued(config, tensors)
    size = sum(value.nbytes for value in tensors.values())
    return Outcome(tensors, 0, {"exchanged_tensors": len(tensors), "exchanged_bytes": size})


def statistics(task: ClientTask, config: RunConfig, _sampler: MemorySampler) -> Outcome:
    """Counts and moments of the training episodes, and nothing else of the recordings."""
    dataset = _dataset(config, task.client)
    meta = data.open_metadata(dataset)
    episodes, _ = data.split_episodes(meta.total_episodes, config.evaluation.holdout_episodes)
    stats = data.training_statistics(meta, config.evaluation.holdout_episodes)
    renamed = {dataset.rename_map.get(key, key): value for key, value in stats.items()}
    return Outcome(data.flatten_stats(renamed), sum(meta.episodes["length"][: len(episodes)]), {})


def train(task: ClientTask, config: RunConfig, sampler: MemorySampler) -> Outcome:
    """Fit the global policy to this client's training episodes for one round."""
    dataset = _dataset(config, task.client)
    meta = data.open_metadata(dataset)
    built, preprocessor, _ = _load_global(task, config, dataset, meta)
    if task.client == POOLED:
        frames, plan = _pooled_frames(config, built.config), pooled_training(config)
    else:
        frames = _training_frames(config, dataset, meta, built.config)
        plan = config.training_of(task.client, task.steps)
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
            optimizer_state=None if task.optimizer is None else read_tensors(Path(task.run_dir), task.optimizer),
        ),
        _progress(task, plan.steps, sampler),
        FitCheckpoint(task, config.checkpoint.every_steps),
        SoftLimit(config.memory.soft_limit, sampler),
    )
    tail = outcome.losses[-10:]
    metrics = {
        "loss": sum(tail) / len(tail),
        "first_loss": outcome.losses[0],
        "lr": outcome.lr,
        "grad_norm": outcome.grad_norm,
        "steps": len(outcome.losses),
        "steps_per_s": len(outcome.losses) / (outcome.data_s + outcome.update_s),
        "data_s": outcome.data_s,
        "update_s": outcome.update_s,
        "micro_batch_size": task.micro_batch_size or config.training.micro_batch_size or config.training.batch_size,
    }
    return Outcome(policy.update_tensors(built, config.peft), frames.num_frames, metrics, outcome.optimizer_state)


def evaluate_held_out(task: ClientTask, config: RunConfig, sampler: MemorySampler) -> Outcome:
    """Evaluate the global policy on a client's held-out episodes, or on all of a setting that no client trains on."""
    dataset = _dataset(config, task.client)
    meta = data.open_metadata(dataset)
    held_out = config.evaluation.holdout_episodes if dataset in config.clients else meta.total_episodes
    _, episodes = data.split_episodes(meta.total_episodes, held_out)
    built, preprocessor, postprocessor = _load_global(task, config, dataset, meta)
    frames = data.build_dataset(dataset, meta, built.config, config.data, episodes)
    seed = derive_seed(config.seed, 0, task.client, "evaluate")
    sampler.enter("evaluate")
    parts = (built, preprocessor, postprocessor, frames)
    full, size = config.is_full(task.server_round), task.micro_batch_size
    metrics = evaluate(*parts, config.evaluation, seed=seed, micro_batch_size=size, quick=not full)
    if full and config.evaluation.full_every != 1:  # what a quick round is compared with
        quick = evaluate(*parts, config.evaluation, seed=seed, micro_batch_size=size, quick=True)
        metrics[QUICK] = quick
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
    parts = _load_global(task, config, environment, env)
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


def save_policy(task: ClientTask, config: RunConfig, folder: Path, *, merge: bool, own: bool = False) -> None:
    """Write the global policy of a round as a LeRobot `pretrained_model` folder.

    Args:
        task: an `evaluate` task of the round, which names its tensors and statistics.
        config: the run's config.
        folder: where to write; created.
        merge: merge the adapters into the weights, so that the folder needs neither PEFT nor the base.
        own: for the task's client alone: with its own statistics, where the config lets it use them.
    """
    dataset = _dataset(config, task.client)
    built, preprocessor, postprocessor = _load_global(task, config, dataset, data.open_metadata(dataset), own=own)
    if merge and config.peft.enabled:
        built = built.merge_and_unload()
        built.config.use_peft = False
    policy.save_pretrained(built, preprocessor, postprocessor, folder)


def read_config(run_dir: Path) -> RunConfig:
    """The frozen config of a run, from its run.json."""
    return validate_config(atomic.read_sealed(run_dir / "run.json")["config"])


def read_tensors(run_dir: Path, ref: ArtifactRef) -> dict[str, NDArray[Any]]:
    """Read a safetensors file of the run after checking its digest.

    Raises:
        ClientError: the file is not what the task names (cause `lost`).
    """
    path = run_dir / ref.path
    if file_sha256(path) != ref.sha256:
        raise ClientError("lost", f"{path}: its SHA-256 is not {ref.sha256[:12]}...; the file was damaged or replaced")
    tensors: dict[str, NDArray[Any]] = load_file(path)
    return tensors


def _load_global(
    task: ClientTask, config: RunConfig, dataset: Source, meta: LeRobotDatasetMetadata | EnvConfig, *, own: bool = True
) -> tuple[policy.Policy, policy.Processor, policy.Processor]:
    """The policy with the round's global tensors in it, and its processors.

    Args:
        task: names the tensors and, where they are federated, the statistics.
        config: the run's config.
        dataset: the client's, or what no client trains on: another one, or an environment.
        meta: of the dataset; or LeRobot's config of the environment.
        own: whether a client's own statistics may be used, where the config asks for them.
    """
    run_dir = Path(task.run_dir)
    built, base = _load_policy(task, config, dataset, meta)
    if task.incoming is not None:
        policy.load_exchanged_tensors(built, read_tensors(run_dir, task.incoming))
    stats = None  # the base's
    if task.stats is not None:
        stats = data.unflatten_stats(read_tensors(run_dir, task.stats))
    elif own and config.data.normalization == "own" and dataset in config.clients:
        stats = data.training_statistics(meta, config.evaluation.holdout_episodes)
    return built, *policy.build_processors(base, stats, dataset.rename_map)


def _load_policy(
    task: ClientTask, config: RunConfig, dataset: Source, meta: LeRobotDatasetMetadata | EnvConfig
) -> tuple[policy.Policy, PreTrainedConfig]:
    path = policy.base_path(config.policy, Path(task.run_dir))
    base = policy.load_policy_config(config.policy, path)
    # The adapters' random start must not depend on who builds them.
    set_seed(derive_seed(config.seed, 0, "", "init"))
    return policy.build_policy(base, config.peft, meta, dataset.rename_map), base


def _continued(config: RunConfig, fresh: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The tensors of the run that this one continues from, if they are the same ones by name and shape."""
    store, ref = start.origin_tensors(config)
    tensors = read_tensors(store.folder, ref)
    for name in sorted(fresh.keys() | tensors.keys()):
        here, there = (f"of shape {group[name].shape}" if name in group else "missing" for group in (fresh, tensors))
        if here != there:
            raise ConfigError(
                f"continue_from = {config.continue_from!r}: {name} is {there} there and {here} here; "
                "give the same policy and peft keys, or another run"
            )
    return tensors


def _create_base(task: ClientTask, config: RunConfig, meta: LeRobotDatasetMetadata) -> None:
    """A policy made from scratch becomes the run's own base, in the run directory."""
    base = policy.base_config(config, meta)
    set_seed(derive_seed(config.seed, 0, "", "base"))
    built = make_policy(base, ds_meta=meta, rename_map=config.clients[0].rename_map)
    preprocessor, postprocessor = make_pre_post_processors(base)
    policy.save_pretrained(built, preprocessor, postprocessor, Path(task.run_dir) / "base")


def _training_frames(
    config: RunConfig, client: DatasetConfig, meta: LeRobotDatasetMetadata, built: PreTrainedConfig
) -> Any:
    """The training episodes of a client; a LeRobotDataset."""
    episodes, _ = data.split_episodes(meta.total_episodes, config.evaluation.holdout_episodes)
    return data.build_dataset(client, meta, built, config.data, episodes)


def _pooled_frames(config: RunConfig, built: PreTrainedConfig) -> Any:
    """Those of all clients as one dataset."""
    opened = [_training_frames(config, client, data.open_metadata(client), built) for client in config.clients]
    return PooledDataset(opened, [client.rename_map for client in config.clients])


def _dataset(config: RunConfig, name: str) -> DatasetConfig:
    """The dataset of that name; where all are pooled the first, which stands for the policy's features."""
    if name == POOLED:
        return config.clients[0]
    return next(item for item in [*config.clients, *config.evaluation.datasets] if item.name == name)


def _progress(task: ClientTask, steps: int, sampler: MemorySampler) -> training.OnStep:
    """Tell the live view how far the fit is (not synced: a lost file costs nothing), and the sampler of the GPU."""
    path, last = task.folder / "progress.json", 0.0

    def on_step(step: int, loss: float) -> None:
        nonlocal last
        if (peak := peak_vram()) is not None:
            sampler.note_vram(peak)  # here, for LeRobot lets it begin anew at every step
        logger.debug("step {} of {}: loss {:.6f}", step, steps, loss)
        now = time.time()
        if now - last < PROGRESS_INTERVAL_S and step < steps:
            return
        last = now
        record = {"kind": task.kind, "step": step, "steps": steps, "loss": loss, "pid": os.getpid(), "updated_at": now}
        scratch = path.with_suffix(".tmp")
        with os.fdopen(foreign.open_plain(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
            file.write(json.dumps(record).encode())
        scratch.replace(path)

    return on_step
