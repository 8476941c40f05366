"""The tests. The repository's root is where they start programs in."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
