"""Charts of a run as PNG files in `<run>/charts/`, from the committed rounds alone."""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from zk0.files import atomic
from zk0.layout import CHARTS_FOLDER
from zk0.metrics import units
from zk0.metrics.units import ACTION_ERROR
from zk0.metrics.values import Json, mapping

SIZE_INCHES = (6.4, 3.6)
DPI = 100
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#555555", "#b8a800")
"""Okabe and Ito's, told apart by colour-blind readers too; also told apart by the markers."""
MARKERS = "osD^vP*X"

Points = list[tuple[int, float]]


def draw_charts(run_dir: str | Path, rounds: Sequence[Json], unseen: Iterable[str] = ()) -> dict[str, Path]:
    """Draw every chart that the rounds have figures for, replacing the earlier ones.

    Args:
        run_dir: the run directory.
        rounds: lines of metrics.jsonl, by server_round.
        unseen: names of the settings that no client trains on, drawn dashed.

    Returns:
        Name -> file.
    """
    written = {}
    for name, figure in line_figures(rounds, unseen):
        path = Path(run_dir) / CHARTS_FOLDER / f"{name}.png"
        atomic.write_bytes(path, png(figure))
        written[name] = path
    return written


def line_figures(rounds: Sequence[Json], unseen: Iterable[str] = ()) -> Iterator[tuple[str, Figure]]:
    """Every chart of lines that the rounds have figures for, with its name; as `draw_charts`."""
    for name, (title, unit, part, key, scale) in CHARTS.items():
        series = _series(rounds, part, key, scale)
        if series:
            own = _units(rounds, series) if key == ACTION_ERROR else {}
            shared = units.shared(own.values())
            axis = units.WORDS.get(shared, "") if own else unit
            yield name, _figure(title, axis, series, set(unseen), {} if shared else own)


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def plain_words() -> AbstractContextManager[None]:
    """Names are drawn as they are: a $ begins no formula, and none can fail."""
    return rc_context({"text.parse_math": False, "text.usetex": False})


def _bytes_to_gib(value: float) -> float:
    return value / 2**30


def _to_percent(value: float) -> float:
    return 100 * value


def _as_is(value: float) -> float:
    return value


CHARTS: dict[str, tuple[str, str, str, str, Callable[[float], float]]] = {
    "action-error": ("Action error on held-out episodes", "", "evaluate", ACTION_ERROR, _as_is),
    "held-out-loss": ("Loss on held-out episodes", "loss", "evaluate", "loss", _as_is),
    "success": ("Success in closed loop", "percent of the episodes", "rollout", "success_rate", _to_percent),
    "training-loss": ("Training loss at the end of each fit", "loss", "train", "loss", _as_is),
    "fit-duration": ("Duration of each fit", "seconds", "train", "duration_s", _as_is),
    "peak-memory": ("Peak memory of each fit", "GiB", "train", "peak_ram_bytes", _bytes_to_gib),
    "peak-vram": ("Peak GPU memory of each fit", "GiB", "train", "peak_vram_bytes", _bytes_to_gib),
    "orchestrator-memory": ("Memory of the orchestrator", "GiB", "orchestrator", "rss_bytes", _bytes_to_gib),
}
"""Name -> title, unit, part of the round's metrics, key, scale."""


def _series(rounds: Sequence[Json], part: str, key: str, scale: Callable[[float], float]) -> dict[str, Points]:
    series: dict[str, Points] = {}
    for line in rounds:
        by_name = mapping(line.get(part))
        for name, figures in ({part: by_name} if part == "orchestrator" else by_name).items():
            value = units.value(figures, key)
            if value is not None:
                series.setdefault(str(name), []).append((int(line["server_round"]), scale(value)))
    return series


def _units(rounds: Sequence[Json], names: Iterable[str]) -> dict[str, str | None]:
    """Dataset -> the unit of its action error in the newest round that has one."""
    evaluations = [mapping(line.get("evaluate")) for line in rounds]
    last = {name: item[name] for item in evaluations for name in names if units.get(item.get(name), ACTION_ERROR)}
    return {name: units.unit_of(figures, ACTION_ERROR) for name, figures in last.items()}


def _figure(
    title: str, unit: str, series: dict[str, Points], unseen: set[str], own: Mapping[str, str | None]
) -> Figure:
    """Lines of all series; `own` are the units of those that have not the axis'."""
    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)  # no pyplot: its state is global, and this runs beside other threads
    axes: Axes = figure.add_subplot()
    for index, (name, points) in enumerate(series.items()):
        axes.plot(
            [point[0] for point in points],
            [point[1] for point in points],
            label=units.headed(f"{name} (unseen)" if name in unseen else name, own.get(name)),
            color=COLOURS[index % len(COLOURS)],
            marker=MARKERS[index % len(MARKERS)],
            linestyle="--" if name in unseen else "-",
        )
    axes.set(title=title, xlabel="round", ylabel=unit)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
