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
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from benchmarks.federation_value.campaign import compare
from benchmarks.federation_value.plan import Options


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.federation_value",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--episodes", type=int, default=40, help="demonstrations of each client")
    parser.add_argument("--rounds", type=int, default=240)
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps of each client in each round")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--seeds", type=int, default=100, help="episodes in each zone in closed loop")
    parser.add_argument("--seed", type=int, default=1, help="of first weights and of the order of the frames")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--work", type=Path, help="folder for recordings and runs, kept; a temporary one otherwise")
    parser.add_argument("--chart", type=Path, help="PNG file to write")
    options = parser.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zk0-value-")))
        given = {field.name: getattr(options, field.name) for field in fields(Options) if field.name != "work"}
        verdict = compare(Options(**given, work=work.absolute()), options.processes)
    print(f"\n{verdict.table()}\n\n{verdict.sentence()}", flush=True)
    if options.chart is not None:
        options.chart.write_bytes(verdict.chart())
    return 0 if verdict.holds else 1


if __name__ == "__main__":
    sys.exit(main())
