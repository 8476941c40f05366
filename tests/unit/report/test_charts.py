"""Charts of a run, from its metrics alone."""

import io
from pathlib import Path

from PIL import Image

from tests.unit.report.test_markdown import ROUNDS
from zk0.report.charts import CHARTS, draw_charts
from zk0.report.pictures import GAP, MOST_SHEET_PIXELS, sheet


def test_charts_grow_with_the_rounds(tmp_path: Path) -> None:
    assert set(draw_charts(tmp_path, ROUNDS[:1])) == {"action-error", "held-out-loss"}
    first = (tmp_path / "charts" / "action-error.png").read_bytes()
    assert set(draw_charts(tmp_path, ROUNDS, ["workshop"])) == set(CHARTS) - {
        "peak-vram",
        "orchestrator-memory",
        "success",
    }
    assert (tmp_path / "charts" / "action-error.png").read_bytes() != first


def test_a_sheet_has_all_charts_below_one_another_and_no_end_of_them(tmp_path: Path) -> None:
    charts = list(draw_charts(tmp_path, ROUNDS).values())
    picture, drawn = sheet(charts)
    with Image.open(io.BytesIO(picture)) as whole, Image.open(charts[0]) as first:
        assert whole.size == (first.width, (first.height + GAP) * len(charts) - GAP)
        assert first.width <= 640, "legible on a phone"
    assert drawn == len(charts)
    assert len(picture) < sum(path.stat().st_size for path in charts)
    picture, drawn = sheet(charts * 20)
    with Image.open(io.BytesIO(picture)) as whole:
        assert whole.height <= MOST_SHEET_PIXELS
    assert 0 < drawn < 20 * len(charts)
