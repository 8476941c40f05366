"""A chart of bars with intervals, as the bytes of a PNG."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from zk0.report.charts import COLOURS, DPI, png

SIZE_INCHES = (8.0, 4.5)


@dataclass(frozen=True)
class Bar:
    """One bar."""

    label: str
    value: float
    low: float
    """Lower end of the interval, in the unit of the value."""
    high: float
    """Upper end."""
    emphasised: bool = False
    """Drawn in the second colour: what the chart is about."""


def bar_chart(title: str, unit: str, bars: Sequence[Bar], note: str = "") -> bytes:
    """A figure of bars as the bytes of a PNG; see `bar_figure`."""
    return png(bar_figure(title, unit, bars, note))


def bar_figure(title: str, unit: str, bars: Sequence[Bar], note: str = "") -> Figure:
    """Horizontal bars from the top down, each with its interval and its value in figures.

    Args:
        title: of the chart.
        unit: of the values, at the axis.
        bars: in order.
        note: a line under the axis, such as what the intervals are.
    """
    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)  # no pyplot: its state is global, and this may run beside other threads
    axes: Axes = figure.add_subplot()
    for row, bar in enumerate(bars):
        axes.barh(
            row,
            bar.value,
            xerr=[[max(0.0, bar.value - bar.low)], [max(0.0, bar.high - bar.value)]],
            color=COLOURS[1] if bar.emphasised else COLOURS[0],
            alpha=0.85,
            capsize=4,
        )
        axes.annotate(
            f"{bar.value:.3g}", (max(bar.high, bar.value), row), (6, 0), textcoords="offset points", va="center"
        )
    axes.set_yticks(range(len(bars)), [bar.label for bar in bars])
    axes.invert_yaxis()
    axes.set(title=title, xlabel=f"{unit}\n{note}" if note else unit)
    axes.set_xlim(left=0)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.3)
    return figure
