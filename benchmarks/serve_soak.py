"""A soak of `zk0 serve`: nights of a minute each, to see that nothing of the service grows from one to the next.

`uv run python -m benchmarks.serve_soak --nights 24` serves a tiny config on a schedule whose nights are `--night`
seconds apart, and keeps the history of `--history` nights, where the service keeps thirty and Prefect the events of
seven days. Every night it looks at the database, the logs and the processes, prints a table and ends with PASS or FAIL:
from the night on that the history is full, nothing may grow. Nights that the machine is too slow for are skipped by the
schedule, as missed ones are; the table says how many runs were finished.
"""

import argparse
import contextlib
import sqlite3
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import httpx
import psutil

from benchmarks.service import TLS, ServedCommandLine

MIB = 2**20
DAY_S = 86_400.0
TABLES = {
    "flow_runs": "flow_run",
    "task_runs": "task_run",
    "states": "flow_run_state",
    "logs": "log",
    "artifacts": "artifact",
    "events": "events",
}
"""Field of a look -> table of Prefect's database."""
PARTS = {"server": {"server", "start"}, "worker": {"worker", "start"}, "serve": {"serve", "--outputs"}}
"""Process of the service -> words of its command."""
GROWTH = {"database": 0.15, "server_rss": 0.05, "worker_rss": 0.05, "serve_rss": 0.05} | dict.fromkeys(TABLES, 0.15)
"""Field -> how much more of it there may be in the second half of the nights with a full history than in the first."""
MOST_LOG_PER_NIGHT = 64 * 1024
"""Bytes of server's and worker's log; before retries were filtered, an idle server wrote 70 KiB a minute."""
FEWEST = 6
"""Nights with a full history that say something."""
VACUUM = "PREFECT_SERVER_SERVICES_DB_VACUUM_"


@dataclass
class Look:
    """What there was at the end of a night; sizes in bytes."""

    night: int
    finished: int
    """Runs."""
    database: int
    server_log: int
    worker_log: int
    server_rss: int
    worker_rss: int
    serve_rss: int
    flow_runs: int
    task_runs: int
    states: int
    logs: int
    artifacts: int
    events: int


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    with tempfile.TemporaryDirectory(prefix="zk0-serve-soak-") as scratch:
        looks = soak(Path(options.folder or scratch), options.nights, options.night, options.history)
    faults = judge(looks, options.history)
    print("\n".join(f"FAIL: {fault}" for fault in faults) or "PASS")
    return 1 if faults else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--nights", type=int, default=24)
    parser.add_argument("--night", type=float, default=60.0, help="seconds from one to the next")
    parser.add_argument("--history", type=int, default=8, help="nights that are remembered")
    parser.add_argument("--folder", help="for runs and Prefect's files; a temporary one, removed, when left out")
    return parser.parse_args(arguments)


def soak(folder: Path, nights: int, night_s: float, history: int) -> list[Look]:
    """Serve for so many nights; a line of a table for each."""
    service = ServedCommandLine(folder)
    kept_s = history * night_s
    service.environment |= {
        "ZK0_HISTORY_DAYS": str(kept_s / DAY_S),
        "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": f"PT{kept_s:.0f}S",
        f"{VACUUM}LOOP_SECONDS": str(night_s),
    }
    config = service.config(federation__num_rounds=1, training__steps=1, evaluation__holdout_episodes=1)
    looks: list[Look] = []
    try:
        service.serve(config)
        schedule(service, night_s)
        started = time.monotonic()
        print("| " + " | ".join(heading(name) for name in Look.__dataclass_fields__) + " |")
        print("|" + "---:|" * len(Look.__dataclass_fields__), flush=True)
        for night in range(nights + 1):
            time.sleep(max(0.0, started + night * night_s - time.monotonic()))
            looks.append(look(service, night))
            print("| " + " | ".join(cell(name, value) for name, value in asdict(looks[-1]).items()) + " |", flush=True)
    finally:
        service.close()
    return looks


def schedule(service: ServedCommandLine, night_s: float) -> None:
    """Give the nightly deployment its compressed clock, as a person does in the UI."""
    at = f"{service.api}/deployments/{service.nightly()}/schedules"
    known = httpx.get(at, timeout=30, trust_env=False, verify=TLS).json()[0]
    every = {"schedule": {"interval": night_s, "anchor_date": "2026-01-01T00:00:00Z", "timezone": "UTC"}}
    done = partial(httpx.patch, f"{at}/{known['id']}", json=every, timeout=30, trust_env=False, verify=TLS)
    service.until(lambda: done().is_success, 120)  # SQLite is locked at times on a busy machine


def look(service: ServedCommandLine, night: int) -> Look:
    """What there is now."""
    home = Path(service.environment["PREFECT_HOME"])
    with contextlib.closing(sqlite3.connect(f"file:{home / 'prefect.db'}?mode=ro", uri=True, timeout=30)) as database:
        rows = {name: database.execute(f"select count(*) from {table}").fetchone()[0] for name, table in TABLES.items()}  # noqa: S608 - our own names
    rss = dict.fromkeys(PARTS, 0)
    for process in service.processes():
        with contextlib.suppress(psutil.Error):
            words = set(process.cmdline())
            for part, told_by in PARTS.items():
                if told_by <= words:
                    rss[part] = max(rss[part], process.memory_info().rss)
    return Look(
        night=night,
        finished=len(list(service.outputs.glob("*/final"))),
        database=sum(path.stat().st_size for path in home.glob("prefect.db*")),
        server_log=size(home / "zk0-server.log"),
        worker_log=size(home / "zk0-worker.log"),
        server_rss=rss["server"],
        worker_rss=rss["worker"],
        serve_rss=rss["serve"],
        **rows,
    )


def judge(looks: Sequence[Look], history: int) -> list[str]:
    """What does not hold, in words."""
    full = [one for one in looks if one.night > history + 1]
    if len(full) < FEWEST:
        return [f"{len(full)} nights with a full history are too few; at least {FEWEST}"]
    faults = []
    early, late = full[: len(full) // 2], full[len(full) // 2 :]
    if late[-1].finished <= early[0].finished:
        faults.append("no run was finished in the second half")
    for name, most in GROWTH.items():
        before, after = (max(getattr(one, name) for one in part) for part in (early, late))
        if after > before * (1 + most):
            faults.append(f"{name}: {after} in the second half, {before} in the first; allowed is {most:.0%} more")
    written = sum(getattr(looks[-1], name) - getattr(looks[0], name) for name in ("server_log", "worker_log"))
    if written > MOST_LOG_PER_NIGHT * (looks[-1].night - looks[0].night):
        faults.append(f"the logs of server and worker grew by {written / MIB:.1f} MiB")
    return faults


def size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def heading(name: str) -> str:
    unit = {"database": ", MiB", "server_log": ", KiB", "worker_log": ", KiB"}.get(
        name, ", MiB" if "rss" in name else ""
    )
    return name.replace("_", " ").replace("rss", "RSS") + unit


def cell(name: str, value: int) -> str:
    if name == "database" or "rss" in name:
        return f"{value / MIB:.1f}"
    return f"{value / 1024:.1f}" if name.endswith("_log") else str(value)


if __name__ == "__main__":
    sys.exit(main())
