"""Charts of a run, from its metrics alone."""

from pathlib import Path

from PIL import Image

from tests.unit.report.test_markdown import ROUNDS
from zk0.report.charts import CHARTS, draw_charts


def test_charts_grow_with_the_rounds(tmp_path: Path) -> None:
    assert set(draw_charts(tmp_path, ROUNDS[:1])) == {"action-error", "held-out-loss"}
    first = (tmp_path / "charts" / "action-error.png").read_bytes()
    assert set(draw_charts(tmp_path, ROUNDS, ["workshop"])) == set(CHARTS) - {
        "peak-vram",
        "orchestrator-memory",
        "success",
    }
    assert (tmp_path / "charts" / "action-error.png").read_bytes() != first
    with Image.open(tmp_path / "charts" / "action-error.png") as picture:
        assert picture.size == (800, 450)
