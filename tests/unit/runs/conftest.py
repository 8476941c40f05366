"""A run of a config of the test's own, whose clients have no data."""

from pathlib import Path

import pytest

from tests.unit.runs.made import make_config
from zk0.runs.store import RunStore


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore.create_or_open(make_config(tmp_path), "run")
