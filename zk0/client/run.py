"""One piece of work from its task to its result; the same for every executor."""

import time
from pathlib import Path

import torch
from lerobot.utils.random_utils import set_seed
from loguru import logger

from zk0.client.inputs import read_config
from zk0.client.kinds import WORK
from zk0.learning.checkpoint import FitCheckpoint
from zk0.memory.sampler import MemorySampler
from zk0.memory.samples import peak_metrics
from zk0.memory.usage import gib, peak_rss_bytes
from zk0.seeding import derive_seed
from zk0.work.records import ClientResult, ClientTask
from zk0.work.results import write_result


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
