"""The true-size SmolVLA with LoRA on a GPU: steps per second, VRAM, the ratio to bare LeRobot, bytes exchanged.

`uv run python -m benchmarks.gpu` runs two rounds with two clients on the shipped recordings, in a temporary folder and
with its own Prefect server; then the same steps by LeRobot's own functions alone, on the same batches, in a fresh
process. The weights are random (450 M parameters, made on the spot): speed and memory do not depend on them. Where no
GPU is there it says so and exits with 0.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.soak import environment, is_server, read_lines
from zk0.config import RunConfig, load_config
from zk0.executors.process import ProcessExecutor

GIB, MIB = 2**30, 2**20
WARM_UP = 3
"""Steps of the bare loop that are not timed; zk0's are all timed, as they are in a run."""


def main(arguments: Sequence[str] | None = None) -> int:
    import torch

    options = parse(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no GPU: torch sees none here, so there is nothing to measure")
        return 0
    with tempfile.TemporaryDirectory(prefix="zk0-gpu-") as scratch:
        folder = Path(scratch)
        base = options.base or str(folder / "base")
        config = load_config("sim", overrides(folder, base, options))
        executor = ProcessExecutor(config.executor)
        if options.base is None:
            from scripts.true_size import write_base

            print(f"{executor.call(write_base, base) / 1e6:.0f} M parameters, random weights")
        rounds = run(folder, base, options)
        bare = executor.call(bare_lerobot, config, options.steps)
    report(rounds, bare, torch.cuda.get_device_name() if options.device == "cuda" else "CPU")
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=50, help="optimizer steps of each client in each round")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: only to try the benchmark")
    parser.add_argument("--base", help="a policy to take instead of the true-size one, such as asset:base")
    return parser.parse_args(arguments)


def overrides(folder: Path, base: str, options: argparse.Namespace) -> list[str]:
    default = load_config("sim")
    inline = ", ".join(
        f'{{name = "{item.name}", repo_id = "{item.repo_id}", root = "{item.root}"}}' for item in default.clients[:2]
    )
    changes: dict[str, Any] = {
        "outputs_dir": folder / "outputs",
        "clients": f"[{inline}]",
        "policy.path": base,
        "policy.device": options.device,
        "data.normalization": "federated",
        "federation.num_rounds": 2,
        "federation.min_train_clients": 2,
        "training.steps": options.steps,
        "training.batch_size": options.batch_size,
        "evaluation.datasets": "[]",
        "evaluation.frame_stride": 48,
    }
    return [f"{key}={value}" for key, value in changes.items()]


def run(folder: Path, base: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The federation, as a user runs it; gives the lines of metrics.jsonl."""
    command = [sys.executable, "-m", "zk0.cli", "run", "sim", "--name", "gpu"]
    for change in overrides(folder, base, options):
        command += ["--set", change]
    import psutil

    process = subprocess.Popen(command, env=environment(folder), stdin=subprocess.DEVNULL)
    servers: dict[int, psutil.Process] = {}
    while process.poll() is None:
        time.sleep(1)
        try:
            children = psutil.Process(process.pid).children()
        except psutil.NoSuchProcess:
            break
        servers |= {child.pid: child for child in children if is_server(child)}
    code = process.wait()
    for server in servers.values():
        server.terminate()
    psutil.wait_procs(list(servers.values()), timeout=30)
    if code:
        raise SystemExit(f"the run ended with exit code {code}")
    return read_lines(folder / "outputs" / "gpu" / "metrics.jsonl")


def bare_lerobot(config: RunConfig, steps: int) -> dict[str, float]:
    """The first client's fit of round 1 by LeRobot's own functions, without zk0's loop; in a process of its own."""
    import torch
    from accelerate import Accelerator
    from lerobot.optim.factory import make_optimizer_and_scheduler
    from lerobot.scripts.lerobot_train import update_policy
    from lerobot.utils.logging_utils import AverageMeter, MetricsTracker
    from lerobot.utils.utils import cycle

    torch.set_num_threads(config.training.num_threads)
    cpu = config.policy.device == "cpu"
    accelerator = Accelerator(step_scheduler_with_optimizer=False, cpu=cpu)
    policy, preprocessor, dataset, loader, plan = _lerobot_parts(config, steps)
    optimizer, scheduler = make_optimizer_and_scheduler(plan, policy)
    meters = {name: AverageMeter(name) for name in ("loss", "grad_norm", "lr", "update_s")}
    if torch.cuda.is_available():
        meters["gpu_mem_gb"] = AverageMeter("gpu_mem_gb")
    tracker = MetricsTracker(
        config.training.batch_size, dataset.num_frames, dataset.num_episodes, meters, accelerator=accelerator
    )
    batches, started, peak = cycle(loader), time.perf_counter(), 0
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            started = time.perf_counter()
        batch = next(batches)
        for key in dataset.meta.camera_keys:
            if batch[key].dtype == torch.uint8:
                batch[key] = batch[key].to(torch.float32) / 255.0
        tracker, _ = update_policy(
            tracker, policy, preprocessor(batch), optimizer, 10.0, accelerator=accelerator, lr_scheduler=scheduler
        )
        if not cpu:
            peak = max(peak, torch.cuda.max_memory_allocated())
    return {"steps_per_s": steps / (time.perf_counter() - started), "peak_vram_bytes": peak}


def _lerobot_parts(config: RunConfig, steps: int) -> tuple[Any, ...]:
    """Policy with adapters, pre-processor, dataset, loader and plan; the loader's order is that of zk0's fit."""
    import torch
    from lerobot.configs.default import DatasetConfig
    from lerobot.configs.train import TrainPipelineConfig
    from lerobot.datasets import EpisodeAwareSampler

    from zk0.data.datasets import build_dataset, open_metadata, split_episodes
    from zk0.data.statistics import with_imagenet
    from zk0.learning import build, policy, processors
    from zk0.seeding import derive_seed

    item = config.clients[0]
    meta = open_metadata(item)
    base = policy.load_policy_config(config.policy, policy.base_path(config.policy, Path()))
    built = build.build_policy(base, config.peft, meta, item.rename_map).to(config.policy.device)
    preprocessor, _ = processors.build_processors(base, with_imagenet(meta.stats, meta), item.rename_map)
    episodes, _ = split_episodes(meta.total_episodes, config.evaluation.holdout_episodes)
    dataset = build_dataset(item, meta, built.config, config.data, episodes)
    seed = derive_seed(config.seed, 1, item.name, "train")
    sampler = EpisodeAwareSampler(
        dataset.meta.episodes["dataset_from_index"],
        dataset.meta.episodes["dataset_to_index"],
        episode_indices_to_use=dataset.episodes,
        drop_n_last_frames=getattr(built.config, "drop_n_last_frames", 0),
        shuffle=True,
        seed=seed,
        absolute_to_relative_idx=dataset.absolute_to_relative_idx,
    )
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=config.training.batch_size, sampler=sampler, pin_memory=config.policy.device == "cuda"
    )
    plan = TrainPipelineConfig(dataset=DatasetConfig(repo_id=item.repo_id, video_backend="pyav"), policy=built.config)
    plan.steps = steps
    plan.optimizer, plan.scheduler = built.config.get_optimizer_preset(), built.config.get_scheduler_preset()
    return built, preprocessor, dataset, loader, plan


def report(rounds: list[dict[str, Any]], bare: dict[str, float], device: str) -> None:
    fits = [fit for line in rounds for fit in line["train"].values()]
    speed = sum(fit["steps"] for fit in fits) / sum(fit["data_s"] + fit["update_s"] for fit in fits)
    vram = max((fit.get("peak_vram_bytes", 0) for fit in fits), default=0)
    sent = sum(fit["update_bytes"] for fit in fits)
    received = sent  # every client gets the global tensors, which are of the update's names and shapes
    print(f"\n| on {device} | zk0 | bare LeRobot | ratio |\n|---|---:|---:|---:|")
    ratio = speed / bare["steps_per_s"]
    print(f"| steps/s | {speed:.3f} | {bare['steps_per_s']:.3f} | {ratio:.3f} |")
    print(f"| VRAM peak, GiB | {vram / GIB:.2f} | {bare['peak_vram_bytes'] / GIB:.2f} | |")
    print(f"| bytes exchanged, both ways, MiB | {(sent + received) / MIB:.2f} | 0 | |")
    print(f"\n{len(fits)} fits in {len(rounds) - 1} rounds; an update has {fits[0]['update_bytes'] / MIB:.2f} MiB")


if __name__ == "__main__":
    sys.exit(main())
