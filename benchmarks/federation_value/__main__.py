"""Does federation help? Four owners of an arm in closed loop: `python -m benchmarks.federation_value`.

Each client records scripted demonstrations in its own setting. One policy is trained in three ways, from the same first
weights and with the same budget, and then has to pick up the cube in the settings of all clients, from positions that
nobody trained on:

- alone: one client, on its own recordings, with rounds x steps optimizer steps;
- federated: the four clients, each with as many steps on its own recordings, averaged by FedAvg after every `steps`;
- pooled: one learner on all recordings together, which nobody may do in reality, with as many steps as the four clients
  of the federation make together: it sees as many frames as they do.

`--bench zones` (minutes): a small ACT from scratch, which is given joints and cube pose; the cube lies in another part
of the bench for each client. `--bench rooms` (more than an hour): LoRA on the shipped tiny SmolVLA, which sees by two
cameras; the rooms are those of the default config.

Every way is the same loop of zk0's own fit and aggregation: alone and pooled are federations of one. The exit code is 1
unless the federation's success beats the mean of the clients alone, by intervals that do not overlap, and, for zones,
reaches 90 % of the pooled one; for rooms it must beat round 0 in the same way.
"""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from benchmarks.federation_value.benches import BENCHES
from benchmarks.federation_value.campaign import compare
from benchmarks.federation_value.plan import Options


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.federation_value",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bench", choices=list(BENCHES), default="zones", help="what is learned")
    for name, kind, meaning in (
        ("episodes", int, "demonstrations of each client"),
        ("rounds", int, "of the federation"),
        ("steps", int, "optimizer steps of each client in each round"),
        ("lr", float, "peak learning rate"),
        ("seeds", int, "episodes in each setting in closed loop"),
    ):
        each = ", ".join(f"{bench}: {getattr(described, name)}" for bench, described in BENCHES.items())
        parser.add_argument(f"--{name}", type=kind, help=f"{meaning} ({each})")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1, help="of first weights and of the order of the frames")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--work",
        type=Path,
        help="folder for recordings, runs and scores, kept; what is finished there is not done again; a temporary one "
        "otherwise",
    )
    parser.add_argument("--chart", type=Path, help="PNG file to write")
    options = parser.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        if options.work is None:
            options.work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zk0-value-")))
        given = {field.name: getattr(options, field.name) for field in fields(Options)}
        absent = {name: getattr(BENCHES[options.bench], name) for name, value in given.items() if value is None}
        verdict = compare(Options(**{**given, **absent, "work": options.work.absolute()}), options.processes)
    print(f"\n{verdict.table()}\n\n{verdict.sentence()}", flush=True)
    if options.chart is not None:
        options.chart.write_bytes(verdict.chart())
    return 0 if verdict.holds else 1


if __name__ == "__main__":
    sys.exit(main())
