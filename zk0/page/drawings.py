"""The charts of the page, as SVG that takes the page's own colour: for light, dark and paper."""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC
from typing import Any, cast

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from zk0.metrics import units
from zk0.metrics.values import Json, mapping, number
from zk0.page.story import BAD, RUN, Life, Story
from zk0.report.charts import COLOURS

INK = "#12131a"
"""Stands for the colour of the page's text: see `svg`."""
WIDTH = 5.6
"""Inches: at a phone's width the words are still legible."""
PHASE_COLOURS = {
    "load": "#bdbdbd",
    "start": "#d9d9d9",
    "sample": "#f0e442",
    "aggregate": "#cc79a7",
    "commit": "#555555",
    "train": "#0072b2",
    "fit": "#0072b2",
    "evaluate": "#e69f00",
    "rollout": "#009e73",
}
OTHER = "#999999"
BADLY = "#d00000"
DAY_S = 86_400
"""Matplotlib reckons dates in days since 1970."""
MOST_POINTS = 400
"""Of a line of memory: more shows nothing more."""


def look() -> AbstractContextManager[None]:
    """Matplotlib's settings for every chart of the page; names are drawn as they are, a $ begins no formula."""
    ink = ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")
    settings = dict.fromkeys(ink, INK) | {
        "text.parse_math": False,
        "text.usetex": False,
        "svg.fonttype": "none",  # words stay words: they can be found, read aloud, and are small
        "font.family": "sans-serif",
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "axes.titlesize": "medium",
        "font.size": 9.5,
    }
    return rc_context(cast(Any, settings))  # Matplotlib's types know each key by itself alone


def svg(figure: Figure, name: str) -> str:
    """A figure as an SVG element.

    Args:
        figure: drawn under `look`.
        name: of its own on the page: ids in it are made of this.
    """
    buffer = io.StringIO()
    FigureCanvasSVG(figure)
    with rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor").replace("#222222", "currentColor")


def below(figure: Figure) -> Figure:
    """A chart of lines as wide as a column of the page, with its legend below it."""
    axes: Axes = figure.axes[0]
    legend = axes.get_legend()
    if legend is not None:
        legend.remove()
    handles, labels = axes.get_legend_handles_labels()
    _legend(figure, handles, labels)
    figure.set_size_inches(WIDTH, 3.4 + 0.2 * (len(labels) // 3))
    return figure


def joints_figure(first: Json, last: Json, name: str) -> Figure | None:
    """Every joint's error in round 0 and in the newest round, with its interval; None where there is none.

    Args:
        first: the dataset's evaluation in round 0.
        last: in the newest round.
        name: the dataset's.
    """
    joints = units.joint_units(last)
    before, after = (mapping(item.get("joint_error")) for item in (first, last))
    spread = mapping(mapping(last.get("interval_95")).get("joint_error"))
    known = [joint for joint in joints if number(after.get(joint)) is not None]
    if not known:
        return None
    figure = Figure(figsize=(WIDTH, 1.3 + 0.32 * len(known)), layout="constrained")
    axes: Axes = figure.add_subplot()
    for row, joint in enumerate(known):
        old, new = number(before.get(joint)), number(after.get(joint))
        assert new is not None
        bounds = spread.get(joint)
        if isinstance(bounds, list) and len(bounds) == 2:
            axes.plot(bounds, [row, row], color=COLOURS[0], linewidth=5, alpha=0.3, solid_capstyle="butt")
        if old is not None:
            axes.plot(old, row, "s", color=COLOURS[1], markerfacecolor="none", label="" if row else "round 0")
        axes.plot(new, row, "o", color=COLOURS[0], label="" if row else "newest, with 95 % interval")
    words = [units.headed(joint, joints[joint]) for joint in known]
    axes.set_yticks(range(len(known)), words)
    axes.invert_yaxis()
    axes.set(title=f"{name}: mean absolute error by joint")
    axes.set_xlim(left=0)
    _plain(axes, "x")
    _legend(figure, *axes.get_legend_handles_labels())
    return figure


def gantt(story: Story) -> Figure | None:
    """What every process was at, and when: a row for the run and for each client; a cross for what went wrong."""
    rows = {who: own for who, own in story.lives.items() if own}
    if not rows:
        return None
    figure = Figure(figsize=(2 * WIDTH, 1.6 + 0.42 * len(rows)), layout="constrained")
    axes: Axes = figure.add_subplot()
    handles: dict[str, Any] = {}
    for row, own in enumerate(rows.values()):
        for life in own:
            _bars(axes, row, life, handles)
    for event in story.events:
        if event.kind in BAD and event.at is not None and event.who in rows:
            row = list(rows).index(event.who)
            (mark,) = axes.plot(_day(event.at), row, "X", color=BADLY, markeredgecolor="white", markersize=9, zorder=5)
            handles["killed, failed or refused"] = mark
            if event.kind == "killed":
                axes.axvline(_day(event.at), color=BADLY, linewidth=1, linestyle=":")
    for server_round, at in story.committed.items():
        axes.axvline(_day(at), color=INK, linewidth=0.6, alpha=0.6)
        axes.text(_day(at), -0.62, f"{server_round}", ha="right", fontsize="x-small")
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.4, -0.75)
    axes.set(title="What ran when (UTC); thin lines: commits, with the round's number")
    _dates(axes)
    _plain(axes, "x")
    _legend(figure, list(handles.values()), list(handles), 5)
    return figure


def memory_figure(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure | None:
    """Memory over time of the run's process with all its descendants, and of each client's own.

    Args:
        samples: RUN or a client -> lines of memory.jsonl, oldest first.
    """
    known = {who: own for who, own in samples.items() if own}
    if not known:
        return None
    figure = Figure(figsize=(2 * WIDTH, 3.4), layout="constrained")
    axes: Axes = figure.add_subplot()
    for index, (who, own) in enumerate(known.items()):
        for begin, part in enumerate(_by_process(own)):
            thin = part[:: max(1, len(part) // MOST_POINTS)]
            axes.plot(
                [_day(float(sample.get("at", 0))) for sample in thin],
                [float(sample.get("peak_gib", sample.get("tree_gib", 0))) for sample in thin],
                color=COLOURS[index % len(COLOURS)],
                linewidth=1.2,
                label="" if begin else f"{who}, with all that it started" if who == RUN else who,
            )
    axes.set(title="Memory over time (UTC)", ylabel="GiB")
    axes.set_ylim(bottom=0)
    _dates(axes)
    _plain(axes, "y")
    _legend(figure, *axes.get_legend_handles_labels(), 4)
    return figure


def duration_figure(rounds: Sequence[Json]) -> Figure:
    """What each round took."""
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    axes: Axes = figure.add_subplot()
    took = [(int(line["server_round"]), number(line.get("duration_s")) or 0.0) for line in rounds]
    axes.bar([number for number, _ in took], [seconds for _, seconds in took], color=COLOURS[0])
    axes.set(title="Duration of each round", xlabel="round", ylabel="seconds")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _plain(axes, "y")
    return figure


def _bars(axes: Axes, row: int, life: Life, handles: dict[str, Any]) -> None:
    by_name: dict[str, list[tuple[float, float]]] = {}
    for phase in life.phases:
        by_name.setdefault(phase.name, []).append((_day(phase.began), _day(phase.ended) - _day(phase.began)))
    for name, spans in by_name.items():
        colour = PHASE_COLOURS.get(name, OTHER)
        handles[name] = axes.broken_barh(spans, (row - 0.3, 0.6), facecolors=colour, edgecolor="none")


def _by_process(samples: Sequence[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    part: list[Mapping[str, Any]] = []
    for sample in samples:
        if part and (sample.get("pid"), sample.get("started")) != (part[-1].get("pid"), part[-1].get("started")):
            yield part
            part = []
        part.append(sample)
    if part:
        yield part


def _day(at: float) -> float:
    """Unix time as Matplotlib reckons dates."""
    return at / DAY_S


def _dates(axes: Axes) -> None:
    locator = AutoDateLocator()  # type: ignore[no-untyped-call]
    axes.xaxis_date(tz=UTC)
    axes.xaxis.set_major_locator(locator)
    formatter = ConciseDateFormatter(locator, tz=UTC)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_formatter(formatter)


def _plain(axes: Axes, grid: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, alpha=0.3)  # type: ignore[arg-type]  # "x" or "y"


def _legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str], columns: int = 3) -> None:
    if labels:
        figure.legend(handles, labels, frameon=False, ncols=columns, loc="outside lower center", fontsize="small")
