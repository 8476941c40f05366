"""Joints as the policy would have moved them beside those recorded: a chart per dataset, round 0 and the newest."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from loguru import logger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from zk0.errors import StorageError
from zk0.files import atomic
from zk0.layout import CHARTS_FOLDER, client_folder, tensors_file
from zk0.metrics import units
from zk0.metrics.values import Json, mapping
from zk0.report.charts import png

COLUMNS = 2
PANEL_INCHES = (3.2, 1.8)
"""Two beside each other are as wide as the other charts: they stand below one another on the sheet."""
DPI = 100
COURSES = ("recorded", "predicted")
MOST_JOINTS, MOST_FRAMES = 32, 20_000
"""Drawn of a dataset: a chart of more takes minutes and shows nothing."""
LARGEST = 1e30
"""Of a value that is drawn: an axis has no room for what is beyond."""
MOST_BYTES = 64 * 2**20
"""Hours of an episode; a larger file is none of ours."""
TITLE = "the first held-out episode, as recorded and as predicted"
RECORDED = {"color": "#222222", "linestyle": "-", "linewidth": 1.8}
BASE = {"color": "#d55e00", "linestyle": "--", "linewidth": 1.4}
NEWEST = {"color": "#0072b2", "linestyle": "-", "linewidth": 1.4}
"""Matplotlib's line properties; Okabe and Ito's colours, told apart by colour-blind readers too."""

Tensors = dict[str, NDArray[Any]]


class Line(NamedTuple):
    """One course of all joints."""

    label: str
    """For the legend."""
    style: Mapping[str, Any]
    """Matplotlib's line properties."""
    values: NDArray[Any]
    """Shape (frames, joints), in the dataset's units."""


def draw_joint_charts(run_dir: str | Path, rounds: Sequence[Json], datasets: Sequence[str]) -> dict[str, Path]:
    """Draw the charts of every dataset whose joints the newest round has, replacing the earlier ones.

    Args:
        run_dir: the run directory.
        rounds: lines of metrics.jsonl, by server_round.
        datasets: their names.

    Returns:
        Name of the chart -> file.

    Raises:
        StorageError: a file of a round cannot be read.
    """
    folder, written = Path(run_dir), {}
    for name, figure in joint_figures(folder, rounds, datasets):
        path = folder / CHARTS_FOLDER / f"{name}.png"
        atomic.write_bytes(path, png(figure))
        written[name] = path
    return written


def joint_figures(folder: Path, rounds: Sequence[Json], datasets: Sequence[str]) -> Iterator[tuple[str, Figure]]:
    """Those charts, each with its name; as `draw_joint_charts`."""
    newest = rounds[-1] if rounds else {}
    number = int(newest.get("server_round", 0))
    for name in datasets:
        joints = units.joint_units(mapping(newest.get("evaluate")).get(name))
        now, base = _read(folder, number, name), _read(folder, 0, name)
        if now is None or not joints or len(joints) > now["recorded"].shape[1]:
            continue
        lines = [Line("recorded", RECORDED, now["recorded"])]
        if base is not None and len(joints) <= base["predicted"].shape[1]:
            lines.append(Line("round 0 (the base)", BASE, base["predicted"]))
        if number:
            lines.append(Line(f"round {number}", NEWEST, now["predicted"]))
        if len(joints) > MOST_JOINTS:
            logger.warning("{}: {} of its {} joints are drawn", name, MOST_JOINTS, len(joints))
        joints = dict(list(joints.items())[:MOST_JOINTS])
        yield f"joints-{name}", _figure(f"{name}: {TITLE}", joints, lines)


def _read(folder: Path, server_round: int, name: str) -> Tensors | None:
    """A round's evaluation of a dataset; None where there is none, or what a client left is no such thing."""
    path = client_folder(folder, server_round, name) / tensors_file("evaluate")
    if not atomic.is_there(path):
        return None
    try:
        tensors = atomic.read_tensors(path, MOST_BYTES)
    except StorageError as error:
        logger.warning("no chart of joints: {}", error)
        return None
    shapes = [tensors[key].shape for key in COURSES if key in tensors]
    if len(shapes) != len(COURSES) or shapes[0] != shapes[1] or len(shapes[0]) != 2:
        return None
    return {key: np.clip(tensors[key][:MOST_FRAMES].astype(np.float64), -LARGEST, LARGEST) for key in COURSES}


def _figure(title: str, joints: Mapping[str, str | None], lines: Sequence[Line]) -> Figure:
    """A panel per joint, with its unit."""
    rows = -(-len(joints) // COLUMNS)
    figure = Figure(figsize=(COLUMNS * PANEL_INCHES[0], rows * PANEL_INCHES[1] + 0.6), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)  # no pyplot: its state is global, and this runs beside other threads
    panels = list(figure.subplots(rows, COLUMNS, sharex=True, squeeze=False).flat)
    for index, (joint, axes) in enumerate(zip(joints, panels, strict=False)):
        for line in lines:
            axes.plot(line.values[:, index], label=line.label, **line.style)
        axes.set_title(joint, fontsize="medium", loc="left")
        axes.set_ylabel(units.WORDS.get(joints[joint], ""))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
        if index >= len(joints) - COLUMNS:
            axes.set_xlabel("frame")
            axes.tick_params(labelbottom=True)
    for axes in panels[len(joints) :]:
        axes.set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.suptitle(title)
    figure.legend(handles, labels, frameon=False, ncols=len(labels), loc="outside lower center")
    return figure
