"""The notebooks of the documents, one after the other, in a kernel of their own."""

from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.exhaustive,  # trains for a minute what tests/integration/test_api.py trains
]
NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"


def test_the_notebooks_run(tmp_path: Path) -> None:
    nbformat, nbclient = (pytest.importorskip(name, reason="uv sync --group docs") for name in ("nbformat", "nbclient"))
    said = []
    for name in ("a_run", "what_it_left"):
        notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
        nbclient.NotebookClient(notebook, timeout=550, resources={"metadata": {"path": str(tmp_path)}}).execute()
        said.append([output for cell in notebook.cells for output in cell.get("outputs", ())])
    assert "'SmolVLAPolicy'" in str(said[0])
    assert "model.safetensors" in str(said[1])
