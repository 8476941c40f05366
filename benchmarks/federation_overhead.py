"""What a round over a link costs beside the work: null work of some sizes, on some nodes, and Flower's own floor.

uv run python -m benchmarks.federation_overhead --json overhead.json

Each node gives back what it gets. Beside it the same by local processes (a forked worker that reads and writes the same
tensors), and Flower alone: a ServerApp that sends one message to each of as many SuperNodes, which echo it, by Flower's
own commands, without gate, keys and TLS.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.links import RECORDINGS, Place, until
from benchmarks.null_work import echo
from benchmarks.service import free_port, small_run
from zk0.config import RunConfig, validate_config
from zk0.executors.process import ProcessExecutor
from zk0.executors.superlink import SuperlinkExecutor
from zk0.node.worker import recordings_digest
from zk0.runs import described
from zk0.runs.store import RunStore
from zk0.work.records import ClientTask

BIN = Path(sys.executable).parent
MIB = 10**6
SERVER = """
import json, os, time
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp
app = ServerApp()
@app.main()
def main(grid, context):
    nodes, size, rounds = (context.run_config[name] for name in ("nodes", "size", "rounds"))
    while len(list(grid.get_node_ids())) < nodes:
        time.sleep(0.2)
    took = []
    for _ in range(rounds):
        began = time.monotonic()
        content = RecordDict({"a": ArrayRecord([np.frombuffer(os.urandom(size), dtype=np.uint8)])})
        sent = list(grid.push_messages([Message(content, node, "query", ttl=900) for node in grid.get_node_ids()]))
        left = set(sent)
        while left:
            for reply in grid.pull_messages(list(left)):
                left.discard(reply.metadata.reply_to_message_id)
            time.sleep(0.1)
        took.append(time.monotonic() - began)
    with open(context.run_config["out"], "w") as file:
        json.dump(took, file)
"""
CLIENT = """
from flwr.app import Message
from flwr.clientapp import ClientApp
app = ClientApp()
@app.query()
def query(message, context):
    return Message(message.content, reply_to=message)
"""
PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "floor"
version = "1"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "zk0"
[tool.flwr.app.components]
serverapp = "floor.server:app"
clientapp = "floor.client:app"
[tool.flwr.app.config]
nodes = 1
size = 1
rounds = 1
out = ""
"""


def config(outputs: Path, names: list[str], link: Path | None) -> RunConfig:
    found = small_run(outputs)
    found["clients"] = [{"name": name, "repo_id": f"lab/{name}", "root": "/nowhere"} for name in names]
    if link is not None:
        found["executor"] |= {"kind": "superlink", "link": str(link)}
    return validate_config(found)


def tasks(store: RunStore, names: list[str], server_round: int, size: int) -> list[ClientTask]:
    """A round's fits, from tensors of that size that nobody has seen before."""
    tensors = {"x": np.frombuffer(os.urandom(size), dtype=np.uint8)}
    arrays = store.place(server_round, "global", tensors)
    return [store.task("train", server_round, name).model_copy(update={"incoming": arrays}) for name in names]


def timed(run: Callable[[ClientTask], object], work: list[ClientTask]) -> float:
    began = time.monotonic()
    with ThreadPoolExecutor(len(work)) as pool:
        list(pool.map(run, work))
    return time.monotonic() - began


def by_processes(folder: Path, names: list[str], sizes: list[int], rounds: int) -> dict[int, float]:
    """Size in bytes -> median seconds of a round."""
    store = RunStore.create_or_open(config(folder, names, None), "home")
    executor = ProcessExecutor(store.config.executor)
    run = lambda task: executor.call(echo, task.model_dump_json())  # noqa: E731
    timed(run, tasks(store, names[:1], 0, 8))  # the fork server's imports
    return _rounds(run, store, names, sizes, rounds)


def over_link(place: Place, names: list[str], sizes: list[int], rounds: int) -> dict[int, float]:
    """The same on nodes; a first round, in which the courier begins, is left out."""
    store = RunStore.create_or_open(config(place.folder / "outputs", names, place.link), f"far-{len(names)}")
    said = {"fps": 30, "features": {}, "robot_type": None, "recordings": recordings_digest(RECORDINGS)}
    described.keep(store.folder, dict.fromkeys(names, said))
    executor = SuperlinkExecutor(store.config)
    timed(executor.run, tasks(store, names, 0, 8))
    found = _rounds(executor.run, store, names, sizes, rounds)
    executor.stop(str(store.folder))
    from zk0.work.executor import STOPPED

    STOPPED.clear()
    return found


def _rounds(
    run: Callable[[ClientTask], object], store: RunStore, names: list[str], sizes: list[int], rounds: int
) -> dict[int, float]:
    found, number = {}, 0
    for size in sizes:
        took = []
        for _ in range(rounds):
            number += 1
            took.append(timed(run, tasks(store, names, number, size)))
        found[size] = round(median(took), 2)
    return found


def floor(folder: Path, nodes: int, sizes: list[int], rounds: int) -> dict[int, float]:
    """Flower alone."""
    app, port = folder / f"app-{nodes}", free_port()
    for name, text in {"floor/__init__.py": "", "floor/server.py": SERVER, "floor/client.py": CLIENT}.items():
        (app / name).parent.mkdir(parents=True, exist_ok=True)
        (app / name).write_text(text)
    (app / "pyproject.toml").write_text(PROJECT)
    home = folder / f"flwr-{nodes}"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "x"\n[superlink.x]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_HOME": str(home)}
    environment = {**os.environ, **quiet, "PATH": f"{BIN}:{os.environ['PATH']}"}
    link = [BIN / "flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", port]
    commands = [link] + [
        [BIN / "flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{port}", "--port", free_port()]
        for _ in range(nodes)
    ]
    with (folder / f"floor-{nodes}.log").open("wb") as log:
        started = []
        try:
            for command in commands:
                started.append(
                    subprocess.Popen(
                        [*map(str, command)], env=environment, stdout=log, stderr=log, start_new_session=True
                    )
                )
                if command is link:
                    until(partial(_listens, port))
            found = {}
            for size in sizes:
                out = folder / f"floor-{nodes}-{size}.json"
                given = f'nodes={nodes} size={size} rounds={rounds + 1} out="{out}"'
                words = [str(BIN / "flwr"), "run", str(app), "x", "--run-config", given]
                subprocess.run(words, env=environment, check=True, stdout=log)
                until(out.exists, 900)
                time.sleep(0.5)
                found[size] = round(median(json.loads(out.read_text())[1:]), 2)
            return found
        finally:
            for process in started:
                os.killpg(process.pid, 9)
                process.wait()


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def measured(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    lines = []
    sizes = [int(size * MIB) for size in args.sizes]
    floors = {count: floor(folder, count, sizes, args.rounds) for count in args.nodes}
    with_nodes = Place(folder)
    every = [f"n{number}" for number in range(max(args.nodes))]
    try:
        with_nodes.start_link()
        for name in every:
            with_nodes.node(name)
            path = folder / name / "node.toml"
            path.write_text(path.read_text().replace("[rules]", "[rules]\nfull_fine_tuning = true", 1))
            with (folder / f"{name}.out").open("ab") as out:
                command = [sys.executable, "-P", "-m", "benchmarks.null_node", str(folder / name)]
                with_nodes.processes[name] = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
        for name in every:
            until(partial(_joined, with_nodes, name), 600)
        for count in args.nodes:
            home = by_processes(folder / f"home-{count}", every[:count], sizes, args.rounds)
            far = over_link(with_nodes, every[:count], sizes, args.rounds)
            lines += [
                {
                    "nodes": count,
                    "bytes": size,
                    "processes_s": home[size],
                    "link_s": far[size],
                    "flower_s": floors[count][size],
                }
                for size in sizes
            ]
            print(lines[-len(sizes) :], flush=True)
    finally:
        with_nodes.close()
    return lines


def _joined(place: Place, name: str) -> bool:
    return "SuperNode ID" in place.log(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--sizes", type=float, nargs="+", default=[0.1, 3, 100], help="of the tensors, in MB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        lines = measured(args, Path(scratch))
    if args.json:
        args.json.write_text(json.dumps(lines, indent=2))
    print(f"{'nodes':>6}{'MB':>8}{'processes':>11}{'over a link':>13}{'Flower alone':>14}   s a round, median")
    for line in lines:
        print(
            f"{line['nodes']:>6}{line['bytes'] / MIB:>8.1f}{line['processes_s']:>11.2f}{line['link_s']:>13.2f}"
            f"{line['flower_s']:>14.2f}"
        )


if __name__ == "__main__":
    main()
