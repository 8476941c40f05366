"""A person ends runs, and lets them go on, by Prefect's pages or a command line: seconds, and what is left over.

    python -m benchmarks.acts --executor process --by cli
    python -m benchmarks.acts --executor docker --by ui --out acts.md

starts a `zk0 serve` of its own, and prints a line for each act and the table; exit code 1 where something was left
over, came back, or took longer than 15 s. `--by ui` needs Chromium; `--executor docker` an engine, into which an
empty image is put.
"""

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.acts.hands import Hands, Pages, Shell
from benchmarks.acts.left import PATIENCE_S, Left
from benchmarks.acts.scenes import Row, Session
from benchmarks.browser import browser
from benchmarks.containers import docker_changes, make_image
from benchmarks.service import ServedCommandLine

TRAINS_LONG = {"training__steps": 3000, "evaluation__frame_stride": 96, "evaluation__holdout_episodes": 1}
"""More steps than any act waits for, and soon at them."""
SCENES = ("in_the_first_moments", "cancel", "resume_by_hand", "queue", "schedule")
HEAD = "| act | seconds | left over | then |\n|---|---:|---|---|"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executor", choices=("process", "docker"), default="process")
    parser.add_argument("--by", choices=("ui", "cli"), default="cli")
    parser.add_argument("--scenes", nargs="+", choices=SCENES, default=SCENES)
    parser.add_argument("--out", type=Path, help="a file for the table, too")
    options = parser.parse_args()
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a job in the background; its runs would miss Ctrl-C
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="zk0-acts-") as scratch:
        rows = acts(Path(scratch), options.executor, options.by, options.scenes)
    load = f"load at the end {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores"
    table = "\n".join([f"executor {options.executor}, by {options.by}, {load}", "", HEAD, *map(str, rows)])
    print(f"\n{table}")
    if options.out:
        options.out.write_text(table + "\n")
    faults = [fault for row in rows for fault in row.faults]
    print("\n".join(faults) or "nothing was left over, and nothing was late")
    sys.exit(bool(faults))


def acts(folder: Path, executor: str, by: str, scenes: list[str]) -> list[Row]:
    served = ServedCommandLine(folder)
    changes = docker_changes() if executor == "docker" else {}
    with contextlib.ExitStack() as held:
        held.callback(served.close)
        engine = None
        if executor == "docker":
            import docker

            engine = held.enter_context(contextlib.closing(docker.from_env()))
            make_image(engine)
        served.serve()
        served.until(lambda: any("worker" in process.cmdline() for process in served.processes()), PATIENCE_S)
        time.sleep(5)
        hands = held.enter_context(hands_of(served, by))
        left = Left(served, engine)
        held.callback(left.remove_containers)
        session = Session(served, hands, served.config(**TRAINS_LONG, **changes), left)
        for scene in scenes:
            getattr(session, scene)()
        return session.rows


@contextlib.contextmanager
def hands_of(served: ServedCommandLine, by: str) -> Iterator[Hands]:
    if by == "cli":
        yield Shell(served)
        return
    with browser() as page:
        yield Pages(served, page)


if __name__ == "__main__":
    main()
