"""The foreign package of the tests, as if it were installed."""

import tomllib
from pathlib import Path

PACKAGE = Path(__file__).parent / "foreign_package"


def installed(folder: Path) -> list[Path]:
    """Write what an installer would write of it; gives what belongs on the path of imports."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    information = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    information.mkdir(parents=True)
    head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (information / "METADATA").write_text(head)
    lines = [
        line
        for group, points in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in points.items()))
    ]
    (information / "entry_points.txt").write_text("\n".join(lines))
    return [PACKAGE, folder]
