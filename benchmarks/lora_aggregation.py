"""Three ways to aggregate LoRA, beside the ideal average of B A: `python -m benchmarks.lora_aggregation`.

The first table is arithmetic: clients' factors drawn at random around a common start, more and less alike. The second
is training: the shipped recordings and the shipped tiny SmolVLA, in this process, once per way and all else equal. The
errors are taken from the global tensors that came out, with every product written out in float64, and not from what
the aggregation says of itself. `--arithmetic` leaves the training out.
"""

import argparse
import contextlib
import dataclasses
import logging
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger
from numpy.typing import NDArray

from zk0.aggregation import lora
from zk0.aggregation.server_round import ServerRound
from zk0.config import RunConfig, load_config
from zk0.files import atomic
from zk0.runs.records import RoundState
from zk0.runs.store import RunStore
from zk0.work.records import ArtifactRef, ClientResult

MODES = ("average", "ffa", "exact")
Tensors = dict[str, NDArray[Any]]


@dataclasses.dataclass
class Measured:
    """What one way gave."""

    errors: list[float] = dataclasses.field(default_factory=list)
    """Per round: distance of B' A' from the average of B A, relative to the latter, over all adapters."""
    cpu_s: list[float] = dataclasses.field(default_factory=list)
    """Per round: processor seconds of the whole aggregation."""
    update_bytes: int = 0
    """What one client sends in a round."""
    evaluations: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """Data set -> its evaluation after the last round."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=15, help="optimizer steps of each client in each round")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--arithmetic", action="store_true", help="only the table of random factors")
    options = parser.parse_args(arguments)
    logger.remove()
    logger.add(sys.stderr, level="WARNING")
    logging.getLogger("flwr").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="zk0-lora-") as scratch:
        arithmetic(Path(scratch))
        if not options.arithmetic:
            training(Path(scratch), options.rounds, options.steps, options.rank, options.seed)
    return 0


# -- arithmetic


def arithmetic(folder: Path, clients: int = 8, modules: int = 16, out: int = 720, into: int = 960) -> None:
    """One round with adapters of SmolVLA's size; how alike the clients are is the only thing that changes."""
    rank = 16
    print(f"\n{clients} clients, {modules} adapters of {out} x {into}, rank {rank}, float32\n")
    print("| drift of A | " + " | ".join([*MODES, *(f"{mode}, CPU s" for mode in MODES)]) + " |\n" + "|---" * 7 + "|")
    for drift in (0.0, 0.1, 0.3, 1.0):
        config = configuration(folder, [f"c{index}" for index in range(clients)], rank)
        start, updates = drawn(drift, clients, modules, (out, rank, into))
        measured = {mode: one_round(with_mode(config, mode), folder, start, updates) for mode in MODES}
        cells = [f"{measured[mode].errors[0]:.1e}" for mode in MODES]
        cells += [f"{measured[mode].cpu_s[0]:.2f}" for mode in MODES]
        print(f"| {drift} | " + " | ".join(cells) + " |", flush=True)


def drawn(drift: float, clients: int, modules: int, shape: tuple[int, int, int]) -> tuple[Tensors, list[Tensors]]:
    """A start as PEFT makes it, and updates: B of one common part and one of the client's own, A moved by `drift`."""
    out, rank, into = shape
    rng = np.random.default_rng(0)
    start: Tensors = {}
    updates: list[Tensors] = [{} for _ in range(clients)]
    for module in range(modules):
        b, a = f"m{module:02d}.lora_B.weight", f"m{module:02d}.lora_A.weight"
        start[a] = rng.uniform(-1, 1, (rank, into)).astype(np.float32) / np.float32(into**0.5)
        start[b] = np.zeros((out, rank), np.float32)
        common = rng.standard_normal((out, rank))
        for update in updates:
            update[b] = (0.01 * (common + rng.standard_normal((out, rank)))).astype(np.float32)
            moved = rng.uniform(-1, 1, (rank, into)) / into**0.5
            update[a] = (start[a] + drift * moved).astype(np.float32)
    return start, updates


def configuration(folder: Path, names: Iterable[str], rank: int) -> RunConfig:
    clients = [{"name": name, "repo_id": f"lab/{name}"} for name in names]
    peft = {"r": rank, "lora_alpha": rank}
    return RunConfig.model_validate(
        {"clients": clients, "policy": {"path": "lab/base"}, "peft": peft, "outputs_dir": str(folder)}
    )


def with_mode(config: RunConfig, mode: str) -> RunConfig:
    data = config.model_dump()
    data["peft"]["aggregation"] = mode
    return RunConfig.model_validate(data)


def one_round(config: RunConfig, folder: Path, start: Tensors, updates: list[Tensors]) -> Measured:
    """Aggregate given updates; with ffa the clients had kept A."""
    atomic.write_tensors(folder / "global.safetensors", start)
    results = []
    for client, update in zip(config.clients, updates, strict=True):
        sent = {name: value for name, value in update.items() if not frozen(config, name)}
        path = folder / f"{client.name}.safetensors"
        digest = atomic.write_tensors(path, sent)
        ref = ArtifactRef(path=path.name, sha256=digest.sha256, size=digest.size)
        results.append(
            ClientResult(
                key=client.name, kind="train", server_round=1, client=client.name, tensors=ref,
                num_examples=100, metrics={"loss": 1.0}, duration_s=1.0, peak_rss_bytes=1, pid=1,
            )
        )  # fmt: skip
    measured = Measured()
    aggregate(config, 1, folder, folder / "global.safetensors", results, measured)
    return measured


def frozen(config: RunConfig, name: str) -> bool:
    return config.peft.aggregation == "ffa" and lora.is_factor_a(name)


def aggregate(
    config: RunConfig, number: int, folder: Path, before: Path, results: list[ClientResult], measured: Measured
) -> Tensors:
    started = time.process_time()
    after = ServerRound(config, number, before).aggregate(results, folder).tensors
    measured.cpu_s.append(time.process_time() - started)
    measured.errors.append(error(after, atomic.read_tensors(before), results, folder))
    return after


def error(after: Tensors, before: Tensors, results: list[ClientResult], folder: Path) -> float:
    """||B' A' - mean(B_i A_i)|| / ||mean(B_i A_i)||, over all adapters; an A not sent is the one before."""
    sent = [atomic.read_tensors(folder / result.tensors.path) for result in results if result.tensors is not None]
    shares = [result.num_examples / sum(one.num_examples for one in results) for result in results]
    missed, whole = 0.0, 0.0
    for a in (name for name in after if lora.is_factor_a(name)):
        b = a.replace("lora_A", "lora_B")
        ideal = np.zeros((len(after[b]), after[a].shape[1]))
        for update, share in zip(sent, shares, strict=True):
            ideal += share * (update[b].astype(np.float64) @ update.get(a, before[a]).astype(np.float64))
        missed += float(np.sum((after[b].astype(np.float64) @ after[a].astype(np.float64) - ideal) ** 2))
        whole += float(np.sum(ideal**2))
    return float((missed / whole) ** 0.5)


# -- training


def training(folder: Path, rounds: int, steps: int, rank: int, seed: int) -> None:
    """The default's four rooms, with fewer steps."""
    keys: dict[str, Any] = {
        "federation.num_rounds": rounds,
        "training.steps": steps,
        "peft.r": rank,
        "peft.lora_alpha": 2 * rank,
    }
    keys |= {"evaluation.frame_stride": 12, "outputs_dir": folder, "policy.device": "cpu", "checkpoint.every_steps": 0}
    keys["seed"] = seed
    config = load_config("sim", [f"{key}={value}" for key, value in keys.items()])
    print(f"\n{len(config.clients)} rooms, {rounds} rounds of {steps} steps, rank {rank}\n")
    head = ["", *(f"error, round {number}" for number in range(1, rounds + 1)), "KiB sent", "CPU s a round"]
    head += ["held-out loss", "action error, deg", "unseen room, deg"]
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|", flush=True)
    for mode in ("base", *MODES):
        way, number = ("average", 0) if mode == "base" else (mode, rounds)
        with contextlib.redirect_stdout(sys.stderr):  # LeRobot prints what it loads
            measured = trained(with_mode(config, way), mode, number)
        known = [measured.evaluations[client.name] for client in config.clients]
        unseen = measured.evaluations[config.evaluation.datasets[0].name]
        cells = [mode, *(f"{one:.1e}" for one in measured.errors), *["-"] * (rounds - len(measured.errors))]
        cells += [f"{measured.update_bytes / 1024:.0f}", f"{np.mean(measured.cpu_s or [0.0]):.2f}"]
        cells += [f"{np.mean([one[key] for one in known]):.3f}" for key in ("loss", "action_error_deg")]
        print("| " + " | ".join([*cells, f"{unseen['action_error_deg']:.3f}"]) + " |", flush=True)


def trained(config: RunConfig, name: str, rounds: int) -> Measured:
    """A run without Prefect: the same functions, one after the other."""
    from zk0.client.run import run_task

    store, measured = RunStore.create_or_open(config, name), Measured()
    initial = run_task(store.task("init", 0, "server"))
    assert initial.tensors is not None
    state = RoundState(server_round=0, arrays=initial.tensors)
    for number in range(1, rounds + 1):
        results = [run_task(store.task("train", number, client.name, state)) for client in config.clients]
        measured.update_bytes = max(result.tensors.size for result in results if result.tensors is not None)
        after = aggregate(config, number, store.folder, store.path(state.arrays), results, measured)
        state = RoundState(server_round=number, arrays=store.place(number, "global", after))
    for dataset in [*config.clients, *config.evaluation.datasets]:
        measured.evaluations[dataset.name] = run_task(store.task("evaluate", rounds, dataset.name, state)).metrics
    return measured


if __name__ == "__main__":
    sys.exit(main())
