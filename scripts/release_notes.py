"""Print what the changelog says of the version in pyproject.toml, for a release's page.

uv run python scripts/release_notes.py
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def notes(changelog: str, version: str) -> str:
    """The part of the changelog that is of one version, without its heading."""
    found = re.search(rf"(?ms)^## \[{re.escape(version)}\][^\n]*\n(.*?)(?=^## \[|\Z)", changelog)
    assert found is not None, f"CHANGELOG.md has no {version}"
    return found[1].strip() + "\n"


if __name__ == "__main__":
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    print(notes((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version), end="")
