"""What a round costs beside the clients' own work, by their number: time, processor time, memory.

`uv run python -m benchmarks.scale` makes runs of 4, 16, 64 and 256 clients whose work is next to nothing (each reads
what it is given and writes a small update and figures, in a thread of this process), and one of 1,000 of which a tenth
is sampled. Everything else is real: sampling, admission, Flower's strategy, commit, charts, every file. Each run is in
a process of its own. PASS where a client of 256 costs no more than LIMIT of one of 16, and memory does not grow.
"""

import argparse
import atexit
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from loguru import logger
from rich.console import Console
from rich.table import Table

from benchmarks.null_work import TENSORS, work
from benchmarks.service import CommandLine, small_run
from zk0.config import RunConfig, validate_config
from zk0.executors import choice
from zk0.executors.process import ProcessExecutor
from zk0.federation.round import federate
from zk0.federation.start import advancing
from zk0.federation.steps import Steps
from zk0.runs.store import RunStore
from zk0.work.records import ClientResult, ClientTask
from zk0.work.results import find_finished

LIMIT = 1.2
"""Cost of a client of 256, over that of one of 16."""
GROWTH = 1.1
"""Memory after the last round, over that after the second."""


class Nothing:
    """An executor whose clients learn next to nothing: here, or each in a process of its own as real ones.

    Args:
        config: of the run.
    """

    def __init__(self, config: RunConfig) -> None:
        self._config = config

    def run(self, task: ClientTask) -> ClientResult:
        """See `Executor.run`."""
        if (found := find_finished(task)) is not None:
            return found
        values, processes = self._config.executor.options["values"], self._config.executor.options["processes"]
        if not processes:
            return work(task, values)
        return ProcessExecutor(self._config.executor).call(work, task, values)


class Wanted(NamedTuple):
    """One run."""

    clients: int
    fraction: float = 1.0
    """Of the clients, sampled in each round."""
    rounds: int = 6
    mb: float = 0.16
    """Size of an update; that of a small adapter when left out."""
    processes: bool = False
    """Whether each piece of work has a process of its own."""
    prefect: bool = False
    """Whether its rounds are Prefect's flows and tasks."""


def run_config(wanted: Wanted, outputs: Path) -> RunConfig:
    """A run of so many clients."""
    named = [
        {"name": f"c{number:04}", "repo_id": f"zk0/c{number}", "root": "asset:datasets/kitchen"}
        for number in range(wanted.clients)
    ]
    options = {"values": int(wanted.mb * 1e6 / 4 / TENSORS), "processes": wanted.processes}
    changes: dict[str, Any] = {
        "federation": {
            "num_rounds": wanted.rounds,
            "fraction_train": wanted.fraction,
            "min_train_clients": 2,
            "admission": {"max_norm_ratio": 0.0},
        },
        "executor": {"kind": "nothing", "max_parallel": 4 if wanted.processes else 2, "options": options},
    }
    return validate_config(small_run(outputs, clients=named, **changes))


def measure(wanted: Wanted, outputs: Path) -> dict[str, Any]:
    """Make a run; gives the seconds and processor seconds of a round, medians of all but the first two, and memory."""
    choice.OURS["nothing"] = Nothing
    config = run_config(wanted, outputs)
    store = RunStore.create_or_open(config, "scale")
    if wanted.processes:
        ProcessExecutor.preload = (*ProcessExecutor.preload, work.__module__)
        ProcessExecutor(config.executor).call(os.getpid)  # its imports are of no round
    marks: list[tuple[float, float, int]] = []
    with advancing(store):
        logger.remove()
        (with_prefect if wanted.prefect else without)(store, marks)
    pairs = list(itertools.pairwise(marks[1:]))
    return {
        **wanted._asdict(),
        "sampled": max(2, int(wanted.clients * wanted.fraction)),
        "round_s": float(np.median([after[0] - before[0] for before, after in pairs])),
        "round_cpu_s": float(np.median([after[1] - before[1] for before, after in pairs])),
        "resident_mb": marks[-1][2] / 1e6,
        "growth": marks[-1][2] / marks[1][2],
        "files": sum(1 for _ in store.folder.rglob("*")),
        "mb_on_disk": sum(path.stat().st_size for path in store.folder.rglob("*") if path.is_file()) / 1e6,
    }


def mark(marks: list[tuple[float, float, int]]) -> None:
    marks.append((time.perf_counter(), processor_s(), resident()))


def without(store: RunStore, marks: list[tuple[float, float, int]]) -> None:
    """As `zk0.run()` makes the rounds."""

    class Marked(Steps):
        def one_round(self, *arguments: Any) -> Any:
            made = super().one_round(*arguments)
            mark(marks)
            return made

    federate(Marked(store))


def with_prefect(store: RunStore, marks: list[tuple[float, float, int]]) -> None:
    """As `zk0 run` makes them, against a server of their own, which ends after this process has told it all."""
    home = Path(tempfile.mkdtemp(prefix="zk0-scale-prefect-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    os.environ |= CommandLine.apart(home)
    os.environ.pop("PREFECT_API_URL", None)
    from flows.settings import set_defaults

    set_defaults()
    from prefect import flow
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.server import ensure_server
    from flows.steps import PrefectSteps

    class Marked(PrefectSteps):
        def one_round(self, *arguments: Any) -> Any:
            made = super().one_round(*arguments)
            mark(marks)
            return made

    @flow(name="scale", persist_result=False)
    def scale() -> None:
        federate(Marked(store))

    server = ensure_server()
    assert server.started is not None
    atexit.register(server.started.wait, 30)
    atexit.register(server.started.terminate)  # before the waiting; Prefect's last events are sent before either
    with temporary_settings({PREFECT_API_URL: server.wait()}):
        scale()


def processor_s() -> float:
    """Processor time of this process alone."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def resident() -> int:
    """Bytes in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[4, 16, 64, 256])
    parser.add_argument("--sampled", type=int, default=1000, help="clients of which a tenth is sampled; 0: none")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        with tempfile.TemporaryDirectory(prefix="zk0-scale-") as scratch:
            print(json.dumps(measure(Wanted(**json.loads(options.one)), Path(scratch))))
        return 0
    wanted = [Wanted(clients, rounds=options.rounds) for clients in options.clients]
    if options.sampled:
        wanted.append(Wanted(options.sampled, 0.1, options.rounds))
    rows = [one(item) for item in wanted]
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    return report(rows)


def one(wanted: Wanted) -> dict[str, Any]:
    """A run in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scale", "--one", json.dumps(wanted._asdict())]
    told = subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    row = dict(json.loads(told.stdout.splitlines()[-1]))
    print(f"{wanted.clients} clients: {row['round_s']:.2f} s a round", file=sys.stderr, flush=True)
    return row


def per_client(row: dict[str, Any]) -> float:
    """Milliseconds of a processor that one client more costs a round."""
    return 1e3 * float(row["round_cpu_s"]) / float(row["sampled"])


def report(rows: Sequence[dict[str, Any]]) -> int:
    """Print the table; gives the exit code."""
    table = Table(title="A round of clients that learn nothing, without Prefect")
    for column in ("clients", "sampled", "s", "CPU s", "CPU ms a client", "MB", "growth", "files", "MB on disk"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            *(str(row["clients"]), str(row["sampled"]), f"{row['round_s']:.2f}", f"{row['round_cpu_s']:.2f}"),
            *(f"{per_client(row):.1f}", f"{row['resident_mb']:.0f}", f"{row['growth']:.2f}", str(row["files"])),
            f"{row['mb_on_disk']:.0f}",
        )
    Console(width=120).print(table)
    known = {row["clients"]: row for row in rows}
    wrong = [f"{row['clients']} clients: memory grows" for row in rows if row["growth"] > GROWTH]
    if {16, 256} <= known.keys() and (ratio := per_client(known[256]) / per_client(known[16])) > LIMIT:
        wrong.append(f"a client of 256 costs {ratio:.2f} times one of 16")
    print("PASS" if not wrong else "FAIL: " + "; ".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
