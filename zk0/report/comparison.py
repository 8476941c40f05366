"""A comparison as a table for the terminal, a chart and JSON."""

import math
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from zk0 import atomic
from zk0.comparison import FOLDER, Comparison
from zk0.report.bars import Bar, bar_chart


def comparison_table(found: Comparison) -> Table:
    """A row per way to train, a column per hold-out, and the mean over the clients' with its interval."""
    table = Table(title=f"{found.run}: action error on held-out episodes, deg")
    table.add_column("trained", no_wrap=True)
    for heading in (*found.clients, "mean of clients", "95 % interval", *(f"{name} (unseen)" for name in found.unseen)):
        table.add_column(heading, justify="right")
    for arm in found.arms:
        low, high = arm.interval(found.clients)
        span = f"{low:.2f} to {high:.2f}" if math.isfinite(high) else "-"
        clients = [f"{arm.errors[name]:.2f}" for name in found.clients]
        unseen = [f"{arm.errors[name]:.2f}" for name in found.unseen]
        cells = [*clients, f"{arm.mean(found.clients):.2f}", span, *unseen]
        table.add_row(arm.name, *cells, style="bold" if arm.name == "federated" else "")
    return table


def write_comparison(found: Comparison, run_dir: Path) -> Path:
    """Leave `compare/comparison.json` and `charts/compare.png` in the run directory; gives the chart."""
    record = {**asdict(found), "intervals": {arm.name: arm.interval(found.clients) for arm in found.arms}}
    if len(found.clients) < 2:
        del record["intervals"]
    atomic.write_json(run_dir / FOLDER / "comparison.json", record)
    bars = []
    for arm in found.arms:
        mean, (low, high) = arm.mean(found.clients), arm.interval(found.clients)
        finite = math.isfinite(high)
        bars.append(Bar(arm.name, mean, low if finite else mean, high if finite else mean, arm.name == "federated"))
    chart = run_dir / "charts" / "compare.png"
    note = f"mean over the hold-outs of {len(found.clients)} clients; bars: 95 % by Student's t over them"
    atomic.write_bytes(chart, bar_chart(f"{found.run}: action error on held-out episodes", "degrees", bars, note))
    return chart
