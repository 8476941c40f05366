"""Every row of docs/performance.md: what was measured, its target, and whether it is met.

`uv run python -m benchmarks.all` takes a machine with nothing else to do; `--only` takes some of the rows, `--json`
writes them. Each figure is a ratio, or a size, of runs beside one another. `default` needs a git checkout: it runs the
commit BEFORE, too, by the same interpreter.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks import aggregation, scale
from benchmarks.executors import round_digests
from benchmarks.metered import Metered, metered
from benchmarks.scale import Wanted
from benchmarks.service import ROOT, CommandLine
from flows.server import answers
from zk0.runs.store import RunStore

BEFORE = "2e8b1ae"
"""The last commit before frames were decoded once."""
TURNS = 3
"""Times that each side runs, in turn."""


class Row(NamedTuple):
    """One figure."""

    what: str
    beside: str
    value: float
    most: float | None = None
    """Target; None where there is none."""
    least: float | None = None
    """The other kind of target."""

    @property
    def met(self) -> bool:
        """Whether the figure is what it must be."""
        return (self.most is None or self.value <= self.most) and (self.least is None or self.value >= self.least)


def default(turns: int = TURNS) -> Iterator[Row]:
    """The default run beside that of the commit BEFORE, each against a server that is up; the same bytes."""
    with tempfile.TemporaryDirectory(prefix="zk0-all-") as scratch:
        earlier = Path(scratch) / "before"
        earlier.mkdir()
        tree = subprocess.run(["git", "archive", BEFORE], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout  # noqa: S607
        subprocess.run(["tar", "-x", "-C", str(earlier)], input=tree, check=True)  # noqa: S607
        taken: dict[str, list[Metered]] = {"before": [], "now": []}
        digests, rates = set(), dict[str, float]()
        for turn in range(turns):
            for name, root in (("before", earlier), ("now", ROOT)):
                folder = Path(scratch) / f"{name}-{turn}"
                taken[name].append(_default_run(root, folder))
                digests.add(round_digests(folder / "outputs" / "default"))
                rates[name] = _steps_per_s(folder / "outputs" / "default")
    ratio = {key: _ratio(taken, key) for key in ("wall_s", "cpu_s")}
    yield Row("default run, wall time", "the commit before", ratio["wall_s"], most=0.5)
    yield Row("default run, processor time", "the commit before", ratio["cpu_s"], most=0.6)
    yield Row("default run, different bytes", "the commit before", len(digests) - 1, most=0)
    yield Row(
        "steps/s of a fit, SmolVLA", "frames decoded as they are drawn", rates["now"] / rates["before"], least=1.6
    )


def _default_run(root: Path, folder: Path) -> Metered:
    folder.mkdir()
    environment = CommandLine.apart(folder) | {"PYTHONPATH": str(root), "ZK0_CACHE": str(folder / "cache")}
    url = f"http://127.0.0.1:{environment['PREFECT_SERVER_API_PORT']}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
    command += ["--port", environment["PREFECT_SERVER_API_PORT"]]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    while not answers(url):
        if server.poll() is not None:
            raise RuntimeError((folder / "server.log").read_text()[-2000:])
        time.sleep(0.3)
    try:
        run = [sys.executable, "-m", "zk0.cli", "run", "--name", "default", "--set", f"outputs_dir={folder}/outputs"]
        return metered(run, environment, str(folder))  # which ends the server, too, and counts it
    finally:
        server.terminate()
        server.wait(30)


def _ratio(taken: dict[str, list[Metered]], key: str) -> float:
    now, before = (statistics.median(getattr(item, key) for item in taken[name]) for name in ("now", "before"))
    return float(now / before)


def _steps_per_s(run_dir: Path) -> float:
    """Of all fits but those of round 1, in which frames are kept."""
    rounds = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()][2:]
    fits = [fit for line in rounds for fit in line["train"].values()]
    return float(sum(fit["steps"] for fit in fits) / sum(fit["data_s"] + fit["update_s"] for fit in fits))


def null_rounds() -> Iterator[Row]:
    """Rounds of four clients that learn nothing, each piece of work in a process: by plain calls, and by Prefect."""
    for mb, most in ((10, 1.0), (100, 0.6)):
        flower = _simulated(mb)
        alone = scale.one(Wanted(4, mb=mb, processes=True))
        prefect = scale.one(Wanted(4, mb=mb, processes=True, prefect=True))
        yield Row(f"null round, {mb} MB, Flower's simulation, s", "-", flower)
        yield Row(f"null round, {mb} MB, zk0.run()", "Flower's simulation", alone["round_s"] / flower, most=most)
        share = prefect["round_s"] - alone["round_s"]
        yield Row(f"null round, {mb} MB, Prefect's own share, s", "zk0.run()", share, most=1.2)


def _simulated(mb: int) -> float:
    command = [sys.executable, "-m", "benchmarks.simulated", "--mb", str(mb)]
    told = subprocess.run(command, cwd=ROOT, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    return float(json.loads(told.stdout.splitlines()[-1])["round_s"])


def aggregations() -> Iterator[Row]:
    """Peak memory over the model's size, and time over that of reading the files."""
    with tempfile.TemporaryDirectory(prefix="zk0-all-") as scratch:
        rows = Path(scratch) / "rows.json"
        command = [sys.executable, "-m", "benchmarks.aggregation", "--clients", "4", "16", "64", "--json", str(rows)]
        subprocess.run(command, cwd=ROOT, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        for row in json.loads(rows.read_text()):
            what = f"{row['strategy']}, {row['clients']} clients"
            yield Row(f"{what}, peak / model", "-", row["zk0"]["peak"], most=aggregation.TARGETS[row["strategy"]])
            if row["strategy"] == "fedavg" and row["clients"] == 16:
                yield Row(f"{what}, speed", "reading", row["read_s"] / row["zk0"]["s"], least=aggregation.SPEED)
                yield Row(f"{what}, time", "Flower's, in memory", row["zk0"]["s"] / row["flower"]["s"])


def many_clients() -> Iterator[Row]:
    """Clients of near-zero work."""
    few, many = scale.one(Wanted(16)), scale.one(Wanted(256))
    yield Row("a client of 256", "a client of 16", scale.per_client(many) / scale.per_client(few), most=scale.LIMIT)
    sampled = scale.one(Wanted(1000, 0.1))
    yield Row("1,000 clients, 100 sampled: s a round", "-", sampled["round_s"])
    yield Row("1,000 clients, 100 sampled: MB resident", "-", sampled["resident_mb"])


def doors() -> Iterator[Row]:
    """What a person waits for who asks for help, or how a run is."""
    with tempfile.TemporaryDirectory(prefix="zk0-all-") as scratch:
        RunStore.create_or_open(scale.run_config(Wanted(4), Path(scratch)), "run")
        for words in (["--help"], ["status", "--outputs", scratch]):
            command, environment = [sys.executable, "-m", "zk0.cli", *words], {**os.environ, "PYTHONPATH": str(ROOT)}
            times = [metered(command, environment, str(ROOT)).wall_s for _ in range(5)]
            yield Row(f"zk0 {words[0]}, s", "-", statistics.median(times), most=0.5)


ROWS: dict[str, Callable[[], Iterator[Row]]] = {
    "doors": doors,
    "default": default,
    "null": null_rounds,
    "aggregation": aggregations,
    "scale": many_clients,
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args(arguments)
    rows = []
    for name in options.only:
        for row in ROWS[name]():
            rows.append(row)
            print(f"{row.what}: {row.value:.3g}", file=sys.stderr, flush=True)
            if options.json:
                options.json.write_text(json.dumps([told(item) for item in rows], indent=2) + "\n")
    return report(rows)


def told(row: Row) -> dict[str, Any]:
    return {**row._asdict(), "met": row.met}


def report(rows: Sequence[Row]) -> int:
    """Print the table; gives the exit code."""
    table = Table(title="zk0, measured")
    for column in ("what", "beside", "measured", "target", ""):
        table.add_column(column, justify="left" if column in ("what", "beside") else "right")
    for row in rows:
        target = f"<= {row.most:g}" if row.most is not None else f">= {row.least:g}" if row.least is not None else ""
        table.add_row(
            row.what, row.beside, f"{row.value:.3g}", target, "" if not target else "met" if row.met else "NOT MET"
        )
    Console(width=130).print(table)
    missed = [row.what for row in rows if not row.met]
    print("PASS" if not missed else f"FAIL: {'; '.join(missed)}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
