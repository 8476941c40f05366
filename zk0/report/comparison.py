"""A comparison as a table for the terminal, a chart and JSON."""

from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from zk0.files import atomic
from zk0.layout import CHARTS_FOLDER, COMPARE_FOLDER, COMPARISON_CHART, COMPARISON_FILE
from zk0.metrics.arms import FEDERATED, ArmResult, Comparison
from zk0.metrics.units import ACTION_ERROR, WORDS, headed
from zk0.report.bars import Bar, bar_chart
from zk0.report.text import error_text, figure, in_brackets, significant


def comparison_table(found: Comparison) -> Table:
    """A row per way to train, a column per hold-out, and the mean over the clients' with its interval."""
    title = headed(f"{found.run}: action error on held-out episodes", found.unit)
    table = Table(title=Text(f"{title}; 95 % intervals by episodes", "table.title"))
    table.add_column("trained", no_wrap=True)
    unseen = [f"{name} (unseen)" for name in found.unseen]
    for heading in (*found.clients, "mean of clients", "beside federated", *unseen):
        table.add_column(heading, justify="right")
    for arm in found.arms:
        mean = figure(arm.mean(found.clients)) + in_brackets(arm.interval(found.clients, found.seed))
        errors = [
            [error_text(arm.figures[name], ACTION_ERROR, unit=found.unit) for name in names]
            for names in (found.clients, found.unseen)
        ]
        table.add_row(
            arm.name, *errors[0], mean, _beside(found, arm), *errors[1], style="bold" if arm.name == FEDERATED else ""
        )
    return table


def comparison_record(found: Comparison) -> dict[str, Any]:
    """A comparison as plain data."""
    return {
        "run": found.run,
        "clients": found.clients,
        "unseen": found.unseen,
        "unit": found.unit,
        "arms": [_record(found, arm) for arm in found.arms],
    }


def write_comparison(found: Comparison, run_dir: Path) -> Path:
    """Leave `compare/comparison.json` and `charts/compare.png` in the run directory; gives the chart."""
    atomic.write_json(run_dir / COMPARE_FOLDER / COMPARISON_FILE, comparison_record(found))
    bars = []
    for arm in found.arms:
        mean = arm.mean(found.clients)
        if mean is not None:
            low, high = arm.interval(found.clients, found.seed) or (mean, mean)
            bars.append(Bar(arm.name, mean, low, high, arm.name == FEDERATED))
    chart = run_dir / CHARTS_FOLDER / COMPARISON_CHART
    note = f"mean over the hold-outs of {len(found.clients)} clients; bars: 95 % bootstrap over their episodes"
    atomic.write_bytes(
        chart, bar_chart(f"{found.run}: action error on held-out episodes", WORDS.get(found.unit, ""), bars, note)
    )
    return chart


def _record(found: Comparison, arm: ArmResult) -> dict[str, Any]:
    return {
        "name": arm.name,
        "errors": arm.errors,
        "mean": arm.mean(found.clients),
        "interval_95": arm.interval(found.clients, found.seed),
        "beside_federated": arm.beside(found.federated, found.clients, found.seed),
    }


def _beside(found: Comparison, arm: ArmResult) -> str:
    difference = arm.beside(found.federated, found.clients, found.seed)
    if arm.name == FEDERATED or difference is None:
        return "-"
    return significant(difference["mean"], "+") + in_brackets(difference["interval_95"])
