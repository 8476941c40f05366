"""Draw docs/pictures/terminal.svg: what `zk0 run` ends with, by rich's own export.

uv run python scripts/demo.py outputs/<run>
"""

import re
import sys
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

from zk0.report.terminal import closing_view

TARGET = Path(__file__).parent.parent / "docs" / "pictures" / "terminal.svg"
WIDTH = 86
"""Columns."""


def draw(run_dir: Path) -> str:
    """The terminal at a run's end, as an SVG."""
    console = Console(record=True, width=WIDTH, file=StringIO(), force_terminal=True)
    console.print(Text("$ uv run zk0 run", style="bold"))
    console.print(closing_view(run_dir))
    console.print(f"final policy: {Path('outputs') / run_dir.name / 'final'}", highlight=False)
    svg = console.export_svg(title="zk0", unique_id="zk0")
    return re.sub(r"@font-face\s*\{[^}]*\}\s*", "", svg)  # which a reader's browser would fetch from elsewhere


if __name__ == "__main__":
    TARGET.write_text(draw(Path(sys.argv[1])), encoding="utf-8")
    print(f"written: {TARGET}")
