"""Every chart of a run, drawn anew from its committed rounds; and all of them on one sheet."""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from zk0.config import RunConfig
from zk0.metrics.values import Json
from zk0.report.charts import draw_charts, plain_words
from zk0.report.joints import draw_joint_charts

SHEET_COLOURS = 64
GAP = 16
"""Pixels between two charts of a sheet."""
MOST_SHEET_PIXELS = 12_000
"""Height of a sheet; a browser shows no picture of more than about 32,000."""


def draw_all(run_dir: Path, config: RunConfig, rounds: Sequence[Json]) -> dict[str, Path]:
    """Draw every chart that the rounds have figures for, and those of the joints.

    Args:
        run_dir: the run directory.
        config: the run's.
        rounds: lines of metrics.jsonl, by server_round.

    Returns:
        Name -> file.

    Raises:
        StorageError: a file of a round cannot be read, or a chart not be written.
    """
    unseen = [dataset.name for dataset in config.evaluation.datasets]
    clients = [client.name for client in config.clients]
    with plain_words():
        return draw_charts(run_dir, rounds, unseen) | draw_joint_charts(run_dir, rounds, [*clients, *unseen])


def sheet(charts: Sequence[Path]) -> tuple[bytes, int]:
    """One picture of many, below one another: as wide as one, so that a phone shows it legibly.

    Args:
        charts: PNG files, the first on top.

    Returns:
        The PNG, in few colours, and how many of the charts have room on it.
    """
    drawn: list[Image.Image] = []
    for path in charts:
        with Image.open(path) as picture:
            if drawn and sum(above.height + GAP for above in drawn) + picture.height > MOST_SHEET_PIXELS:
                break
            drawn.append(picture.convert("RGB"))
    size = max(one.width for one in drawn), sum(one.height + GAP for one in drawn) - GAP
    whole = Image.new("RGB", size, "white")
    top = 0
    for one in drawn:
        whole.paste(one, (0, top))
        top += one.height + GAP
    buffer = io.BytesIO()
    whole.quantize(SHEET_COLOURS, dither=Image.Dither.NONE).save(buffer, format="png", optimize=True)
    return buffer.getvalue(), len(drawn)
