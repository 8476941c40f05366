"""Does federation help? Four owners of an arm, four parts of a bench: `python -m benchmarks.federation_value`.

Each client records scripted demonstrations with the cube in its own zone (joints and cube pose, no pixels). A small ACT
is trained from scratch in three ways, from the same first weights and with the same budget, and then has to pick up the
cube in all four zones, from positions that nobody trained on:

- alone: one client, on its own recordings, with rounds x steps optimizer steps;
- federated: the four clients, each with as many steps on its own recordings, averaged by FedAvg after every `steps`;
- pooled: one learner on all recordings together, which nobody may do in reality, with as many steps as the four clients
  of the federation make together: it sees as many frames as they do.

Every way is the same loop of zk0's own fit and aggregation: alone and pooled are federations of one. The exit code is 1
unless the federation's success beats the mean of the clients alone, by intervals that do not overlap, and reaches 90 %
of the pooled one.
"""

import argparse
import contextlib
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from benchmarks.federation_value.plan import Arm, Options, all_arms
from benchmarks.federation_value.verdict import FEDERATED, POOLED, Scores, Verdict
from zk0.sim import ZONES


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.federation_value",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--episodes", type=int, default=40, help="demonstrations of each client")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=80, help="optimizer steps of each client in each round")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--seeds", type=int, default=100, help="episodes in each zone in closed loop")
    parser.add_argument("--seed", type=int, default=1, help="of first weights and of the order of the frames")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--work", type=Path, help="folder for recordings and runs, kept; a temporary one otherwise")
    parser.add_argument("--chart", type=Path, help="PNG file to write")
    options = parser.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zk0-value-")))
        verdict = compare(options, work.absolute())
    print(f"\n{verdict.table()}\n\n{verdict.sentence()}", flush=True)
    if options.chart is not None:
        options.chart.write_bytes(verdict.chart())
    return 0 if verdict.holds else 1


def compare(asked: argparse.Namespace, work: Path) -> Verdict:
    """Record, train every way and let it act, in as many processes as were asked for."""
    started = time.monotonic()
    given = {field.name: getattr(asked, field.name) for field in fields(Options) if field.name != "work"}
    options = Options(**given, work=work)
    scores: dict[str, Scores] = {}
    # Spawned: torch's threads do not survive a fork.
    with multiprocessing.get_context("spawn").Pool(asked.processes, _set_up) as pool:
        for zone in pool.imap_unordered(_record, [(zone, options) for zone in ZONES]):
            print(f"{time.monotonic() - started:5.0f} s: {zone}: {options.episodes} demonstrations", flush=True)
        for name, by_zone in pool.imap_unordered(_train_and_act, [(arm, options) for arm in all_arms()]):
            scores[name] = by_zone
            figures = ", ".join(f"{zone} {success.rate:.0%}" for zone, success in by_zone.items())
            print(f"{time.monotonic() - started:5.0f} s: {name}: {figures}", flush=True)
    return Verdict({zone: scores[zone] for zone in ZONES}, pooled=scores[POOLED], federated=scores[FEDERATED])


def _set_up() -> None:
    """One torch thread in each process, and LeRobot's progress bars and logs kept off the terminal."""
    import logging

    import torch
    from loguru import logger

    torch.set_num_threads(1)
    logger.remove()
    logging.disable(logging.WARNING)
    descriptor = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # what goes wrong comes back as an exception
        os.dup2(descriptor, stream)
    os.close(descriptor)


def _record(work: tuple[str, Options]) -> str:
    from benchmarks.federation_value.arms import record_zone

    record_zone(*work)
    return work[0]


def _train_and_act(work: tuple[Arm, Options]) -> tuple[str, Scores]:
    from benchmarks.federation_value.arms import Federation

    arm, options = work
    federation = Federation(arm, options)
    federation.train()
    return arm.name, {zone: federation.success(zone, options.seeds) for zone in ZONES}


if __name__ == "__main__":
    sys.exit(main())
