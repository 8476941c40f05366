"""Aggregation beside Flower's own: peak memory over the model's size, and speed beside reading the files.

`uv run python -m benchmarks.aggregation` makes one model of `--mb` MB and an update of each client, and lets each
strategy aggregate its second round (the first one leaves the state) three times over in processes of their own: by zk0,
verified and admitted, from the files to the files of a round that is not committed yet; by Flower's strategy on records
that are loaded whole; and by reading the files alone. Both must give the same tensors. Memory is that of the process
beyond what it had with everything imported, looked at every 5 ms (anonymous pages: the page cache is no one's).
"""

import argparse
import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message
from flwr.serverapp.strategy import Strategy
from loguru import logger
from rich.console import Console
from rich.table import Table
from safetensors.numpy import load_file, save_file

from zk0.aggregation.flower import NodeGrid, ensure_task_identity, seeded
from zk0.aggregation.replies import replies
from zk0.aggregation.server_round import ServerRound
from zk0.aggregation.state import load_strategy_state, strategy_state
from zk0.aggregation.strategies import make_strategy
from zk0.config import RunConfig
from zk0.files import atomic
from zk0.files.stored import StoredTensors
from zk0.seeding import derive_seed
from zk0.work.records import ArtifactRef, ClientResult

TARGETS = {"fedavg": 2.1, "fedprox": 2.1, "fedavgm": 2.1, "fedadam": 4.0, "fedyogi": 4.0}
"""Strategy -> largest peak, in sizes of the model."""
SPEED = 1 / 4
"""Of the files' reading, verified: the least speed."""
TENSORS = 40
DISTINCT = 16
"""Updates with bytes of their own; more clients share them by hard links, or 256 would take 25 GB."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=100, help="size of the model, in MB of float32")
    parser.add_argument("--clients", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--strategies", nargs="+", default=list(TARGETS))
    parser.add_argument("--eager-most", type=int, default=16, help="clients up to which Flower's own is run, too")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)  # of a process: who, strategy, clients, folder
    options = parser.parse_args(arguments)
    if options.one:
        who, strategy, clients, folder = options.one
        print(json.dumps(measure(who, strategy, int(clients), Path(folder))))
        return 0
    rows = []
    with tempfile.TemporaryDirectory(prefix="zk0-aggregation-") as scratch:
        make_files(Path(scratch), options.mb, max(options.clients))
        for clients in options.clients:
            reading = one("read", "fedavg", clients, scratch)
            for strategy in options.strategies:
                row = {"strategy": strategy, "clients": clients, "mb": options.mb, "read_s": reading["s"]}
                row["zk0"] = one("zk0", strategy, clients, scratch)
                if clients <= options.eager_most:
                    row["flower"] = one("flower", strategy, clients, scratch)
                rows.append(row)
                print(f"{strategy}, {clients} clients: {row['zk0']['s']:.1f} s", file=sys.stderr, flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    return report(rows)


def make_files(folder: Path, mb: int, clients: int) -> None:
    """The global tensors, as `0.safetensors`, and each client's update."""
    for number in range(clients + 1):
        path = folder / f"{number}.safetensors"
        if number > DISTINCT:
            os.link(folder / f"{number % DISTINCT + 1}.safetensors", path)
            continue
        rng = np.random.default_rng(number)
        size = mb * 1_000_000 // 4 // TENSORS
        save_file({f"layer.{i:03}": rng.standard_normal(size, np.float32) for i in range(TENSORS)}, path)


def one(who: str, strategy: str, clients: int, folder: str) -> dict[str, Any]:
    """A measurement in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.aggregation", "--one", who, strategy, str(clients), folder]
    told = subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(told.stdout))


def measure(who: str, strategy: str, clients: int, folder: Path) -> dict[str, Any]:
    """Aggregate once, or read; gives seconds, the peak in sizes of the model, and the digest of what came of it."""
    logger.remove()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    ensure_task_identity()
    base = folder / "0.safetensors"
    if who == "read":
        started = time.perf_counter()
        for number in range(1, clients + 1):
            read(folder / f"{number}.safetensors")
        return {"s": time.perf_counter() - started}
    config = run_config(strategy, clients, folder)
    state = folder / f"{strategy}.state"
    if not state.with_suffix(".json").exists():
        write_state(config, base, state)
    results = fits(folder, clients)
    work: Callable[[], Path] = (
        (lambda: by_zk0(config, results, folder, state))
        if who == "zk0"
        else (lambda: by_flower(config, clients, folder, state))
    )
    with watched() as peak:
        started = time.perf_counter()
        made = work()
        seconds = time.perf_counter() - started
    return {"s": seconds, "peak": peak[0] / base.stat().st_size, "sha256": atomic.file_digest(made).sha256}


def run_config(strategy: str, clients: int, folder: Path) -> RunConfig:
    named = [{"name": f"c{number}", "repo_id": f"lab/c{number}"} for number in range(1, clients + 1)]
    return RunConfig.model_validate(
        {
            "clients": named,
            "policy": {"path": "lab/base"},
            "peft": {"enabled": False},
            "federation": {"strategy": strategy, "min_train_clients": clients},
            "outputs_dir": str(folder),
        }
    )


def fits(folder: Path, clients: int) -> list[ClientResult]:
    """The finished fit of each client; the digests are taken once, as the fits would have."""
    known = folder / "digests.json"
    digests = json.loads(known.read_text()) if known.exists() else {}
    for number in range(1, clients + 1):
        if str(number) not in digests:
            digests[str(number)] = atomic.file_digest(folder / f"{number}.safetensors").sha256
    known.write_text(json.dumps(digests))
    return [
        ClientResult(
            key=f"c{number}",
            kind="train",
            server_round=2,
            client=f"c{number}",
            tensors=ArtifactRef(
                path=f"{number}.safetensors",
                sha256=digests[str(number)],
                size=(folder / f"{number}.safetensors").stat().st_size,
            ),
            num_examples=number,
            metrics={"loss": 1.0},
            duration_s=1.0,
            peak_rss_bytes=1,
            pid=1,
        )
        for number in range(1, clients + 1)
    ]


def write_state(config: RunConfig, base: Path, state: Path) -> None:
    """A state as a first round leaves it: the shapes matter, so that of a round with one update does."""
    one = config.model_copy(update={"clients": config.clients[:1]})
    one = one.model_copy(update={"federation": one.federation.model_copy(update={"min_train_clients": 1})})
    first = ServerRound(one, 1, base).aggregate(fits(base.parent, 1), base.parent)
    atomic.write_tensors(state.with_suffix(".safetensors"), first.strategy_tensors)
    atomic.write_json(state.with_suffix(".json"), first.strategy_scalars)


def by_zk0(config: RunConfig, results: list[ClientResult], folder: Path, state: Path) -> Path:
    tensors = StoredTensors(state.with_suffix(".safetensors"))
    server_round = ServerRound(
        config, 2, folder / "0.safetensors", tensors, atomic.read_json(state.with_suffix(".json"))
    )
    made = server_round.aggregate(results, folder)
    if made.strategy_tensors:
        atomic.write_tensors(folder / "zk0.state.safetensors", made.strategy_tensors)
    atomic.write_tensors(folder / "zk0.safetensors", made.tensors)
    return folder / "zk0.safetensors"


def by_flower(config: RunConfig, clients: int, folder: Path, state: Path) -> Path:
    """As a ServerApp does it: every reply's record is in memory."""
    strategy = make_strategy(config.federation, clients)
    load_strategy_state(
        strategy, load_file(state.with_suffix(".safetensors")), atomic.read_json(state.with_suffix(".json"))
    )
    with seeded(derive_seed(config.seed, 2, "", "sampling")):
        asked = list(strategy.configure_train(2, record(folder / "0.safetensors"), ConfigRecord(), NodeGrid(clients)))
    asked.sort(key=lambda message: message.metadata.dst_node_id)
    new = aggregated(strategy, asked, folder)
    strategy_state(strategy)
    arrays = {name: np.asarray(array.numpy(), np.float32) for name, array in new.items()}
    atomic.write_tensors(folder / "flower.safetensors", arrays)
    return folder / "flower.safetensors"


def aggregated(strategy: Strategy, asked: Sequence[Message], folder: Path) -> ArrayRecord:
    messages = {f"c{message.metadata.dst_node_id}": message for message in asked}
    records = {client: record(folder / f"{client[1:]}.safetensors") for client in messages}
    metrics = {client: {"num-examples": int(client[1:]), "loss": 1.0} for client in messages}
    new, _ = strategy.aggregate_train(2, replies(messages, records, metrics, {}))
    assert new is not None
    return new


def record(path: Path) -> ArrayRecord:
    tensors = load_file(path)
    return ArrayRecord({name: Array(tensors[name]) for name in sorted(tensors)})


def read(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 22):
            pass


@contextlib.contextmanager
def watched() -> Iterator[list[int]]:
    """A list whose first item is the peak of anonymous memory so far, in bytes beyond what there was."""
    before, peak, over = anonymous_bytes(), [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.005):
            peak[0] = max(peak[0], anonymous_bytes() - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status says nothing of RssAnon")


def report(rows: Sequence[dict[str, Any]]) -> int:
    """Print the table; gives the exit code."""
    table = Table(title=f"Aggregation of a model of {rows[0]['mb']} MB in {TENSORS} tensors")
    for column in ("strategy", "clients", "peak / model", "target", "Flower's", "s", "Flower's s", "read / s", "same"):
        table.add_column(column, justify="left" if column == "strategy" else "right")
    wrong = 0
    for row in rows:
        own, other, target = row["zk0"], row.get("flower"), TARGETS[row["strategy"]]
        same = other is None or own["sha256"] == other["sha256"]
        wrong += (own["peak"] > target) + (not same)
        table.add_row(
            *(row["strategy"], str(row["clients"]), f"{own['peak']:.2f}", f"{target:g}"),
            *(f"{other['peak']:.1f}" if other else "-", f"{own['s']:.2f}", f"{other['s']:.2f}" if other else "-"),
            *(f"1/{own['s'] / row['read_s']:.1f}", "-" if other is None else "yes" if same else "NO"),
        )
    Console().print(table)
    print("PASS" if not wrong else f"FAIL: {wrong} figures are not as they must be")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
