"""A soak: many short rounds of the tiny default, to see that the orchestrator neither grows nor leaves anything behind.

`uv run python -m benchmarks.soak --rounds 30` runs a federation of the shipped recordings and the shipped tiny SmolVLA,
with its own Prefect server in a temporary folder, looks at the orchestrator from outside five times a second, prints a
table and ends with PASS or FAIL. With `--set executor.kind=docker`, and an image `zk0:latest` that is there, each piece
of work has a container, and none may be left over.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from benchmarks.service import free_port
from zk0.config import load_config
from zk0.executors.docker import engine
from zk0.runs.store import RunStore

MIB = 2**20
LOOK_S = 0.2
GROWTH = 0.01
"""The orchestrator may use this share more in the last ten rounds than in rounds 5 to 15."""
ENDS_WITHIN_S = 20.0
"""Everything that the run started, but the Prefect server that stays for its pages, is gone after this time."""


@dataclass
class Round:
    """What one round looked like; the least of several looks, for a request or a worker under way is no leak."""

    number: int
    rss: int = 0
    fds: int = 10**9
    processes: int = 10**9
    threads: int = 10**9


@dataclass
class Soak:
    """What was seen."""

    rounds: list[Round] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    with tempfile.TemporaryDirectory(prefix="zk0-soak-") as scratch:
        folder = Path(options.folder or scratch)
        soak = run(folder, options.rounds, options.clients, options.steps, options.overrides)
    report(soak)
    faults = judge(soak)
    print("\n".join(f"FAIL: {fault}" for fault in faults) or "PASS")
    return 1 if faults else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--clients", type=int, default=2, help="of the default's four")
    parser.add_argument("--steps", type=int, default=2, help="optimizer steps of each client in each round")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="as for `zk0 run`")
    parser.add_argument("--folder", help="for the run and Prefect's files; a temporary one, removed, when left out")
    return parser.parse_args(arguments)


def run(folder: Path, rounds: int, clients: int, steps: int, overrides: Sequence[str] = ()) -> Soak:
    """Run the federation to its end and look at it from outside."""
    arguments = settings(folder, rounds, clients, steps)
    arguments += [part for override in overrides for part in ("--set", override)]
    with (folder / "soak.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "zk0.cli", "run", *arguments],
            env=environment(folder), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
        soak, seen = watch(process, folder / "outputs" / "soak" / "metrics.jsonl")
    servers = [child for child in seen if is_server(child)]
    try:
        if process.returncode:
            raise SystemExit(f"the run ended with exit code {process.returncode}: {(folder / 'soak.log').read_text()}")
        _, alive = psutil.wait_procs([child for child in seen if not is_server(child)], timeout=ENDS_WITHIN_S)
        soak.left_over = [describe(child) for child in alive if not belongs_to_server(child)]
        soak.left_over += containers_of(folder / "outputs" / "soak")
    finally:
        for server in servers:
            server.terminate()
        psutil.wait_procs(servers, timeout=30)
    return soak


def containers_of(run_dir: Path) -> list[str]:
    """The run's containers, running or not, that the engine still has; none where the run used no engine."""
    store = RunStore.open(run_dir)
    if store.config.executor.kind != "docker":
        return []
    with closing(engine.connect()) as client:
        return [f"container {found.name}" for found in engine.labelled(client, {"zk0.run_dir": str(store.folder)})]


def environment(folder: Path) -> dict[str, str]:
    """Of a run that has a Prefect server of its own, with its files in a folder."""
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")},
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_API_PORT": str(free_port()),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }


def settings(folder: Path, rounds: int, clients: int, steps: int) -> list[str]:
    default = load_config()
    inline = ", ".join(
        f'{{name = "{item.name}", repo_id = "{item.repo_id}", root = "{item.root}"}}'
        for item in default.clients[:clients]
    )
    changes = {
        "outputs_dir": folder / "outputs",
        "clients": f"[{inline}]",
        "federation.num_rounds": rounds,
        "federation.min_train_clients": clients,
        "training.steps": steps,
        "evaluation.datasets": "[]",
        "evaluation.frame_stride": 48,
        "executor.max_parallel": 2,
    }
    return ["sim", "--name", "soak", *(part for key, value in changes.items() for part in ("--set", f"{key}={value}"))]


def watch(process: "subprocess.Popen[bytes]", metrics: Path) -> tuple[Soak, list[psutil.Process]]:
    """Look at the orchestrator until it ends; gives what was seen, and every process that it ever started."""
    orchestrator = psutil.Process(process.pid)
    rounds: dict[int, Round] = {}
    seen: dict[int, psutil.Process] = {}
    while process.poll() is None:
        time.sleep(LOOK_S)
        lines = read_lines(metrics)
        current = rounds.setdefault(len(lines), Round(len(lines)))
        try:
            descendants = orchestrator.children(recursive=True)
            with orchestrator.oneshot():
                current.fds = min(current.fds, orchestrator.num_fds())
                current.threads = min(current.threads, orchestrator.num_threads())
            current.processes = min(current.processes, len(descendants))
        except psutil.NoSuchProcess:
            break
        seen |= {child.pid: child for child in descendants}
    process.wait()
    for line in read_lines(metrics):
        number = int(line["server_round"])
        rounds.setdefault(number, Round(number)).rss = line["orchestrator"]["rss_bytes"]
    whole = [rounds[number] for number in sorted(rounds) if rounds[number].rss]
    return Soak(whole), list(seen.values())


def judge(soak: Soak) -> list[str]:
    """What does not hold, in words."""
    if len(soak.rounds) < 26:
        return [f"{len(soak.rounds)} rounds are too few: the last ten are compared with rounds 5 to 15"]
    early, late = soak.rounds[5:16], soak.rounds[-10:]
    faults = []
    growth = max(item.rss for item in late) / max(item.rss for item in early) - 1
    if growth > GROWTH:
        faults.append(f"the orchestrator's RSS is {growth:.2%} above that of rounds 5 to 15; allowed is {GROWTH:.0%}")
    for what in ("fds", "processes", "threads"):
        before, after = (max(getattr(item, what) for item in part) for part in (early, late))
        if after > before:
            faults.append(f"{what}: {after} in the last ten rounds, {before} in rounds 5 to 15")
    return faults + [f"left over: {text}" for text in soak.left_over]


def report(soak: Soak) -> None:
    print("| round | orchestrator's RSS, MiB | change | file descriptors | processes | threads |")
    print("|---:|---:|---:|---:|---:|---:|")
    first = [Round(-1, soak.rounds[0].rss)] if soak.rounds else []
    for before, item in pairwise([*first, *soak.rounds]):
        change = f"{(item.rss - before.rss) / MIB:+.2f}"
        print(f"| {item.number} | {item.rss / MIB:.2f} | {change} | {item.fds} | {item.processes} | {item.threads} |")
    if len(soak.rounds) >= 26:
        early, late = (max(item.rss for item in part) for part in (soak.rounds[5:16], soak.rounds[-10:]))
        print(f"\nhighest RSS in rounds 5 to 15: {early / MIB:.2f} MiB; in the last ten: {late / MIB:.2f} MiB", end="")
        print(f" ({late / early - 1:+.2%})")
    print(f"processes and containers left over: {len(soak.left_over)}")


def read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(text) for text in path.read_text().split("\n")[:-1]]


def is_server(process: psutil.Process) -> bool:
    """The Prefect server: it stays for the pages of finished runs, by design."""
    try:
        return "uvicorn" in " ".join(process.cmdline()) or "prefect" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def belongs_to_server(process: psutil.Process) -> bool:
    try:
        return any(is_server(parent) for parent in process.parents())
    except psutil.Error:
        return False


def describe(process: psutil.Process) -> str:
    try:
        return f"PID {process.pid}: {' '.join(process.cmdline())[:120]}"
    except psutil.Error:
        return f"PID {process.pid}"


if __name__ == "__main__":
    sys.exit(main())
