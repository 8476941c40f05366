"""A run with all trackers, killed twice: each tracker's own reader gives back each of its rounds, once."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.service import small_run
from tests.integration.conftest import kill
from tests.unit.tracking.test_trackers import points
from zk0.runs.rounds import metric_lines
from zk0.runs.store import RunStore
from zk0.tracking.tracker import KINDS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.exhaustive,  # trains for a minute; the unit tests kill what sends
]
RUN = "import json, sys, zk0; zk0.run(json.loads(sys.argv[1]), name='tracked')"


def begun(config: dict[str, object]) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", RUN, json.dumps(config)], text=True)


def test_a_run_that_was_killed_twice(tmp_path: Path) -> None:
    tracking = {"kinds": list(KINDS), "project": "arms"}
    config = small_run(tmp_path, federation__num_rounds=3, tracking=tracking)
    for committed in (0, 2):
        process = begun(config)
        while committed not in metric_lines(tmp_path / "tracked"):
            assert process.poll() is None
            time.sleep(0.05)
        kill(process)
    assert begun(config).wait() == 0
    store = RunStore.open(tmp_path / "tracked")
    client = store.config.clients[0].name
    trained = {line["server_round"]: line["train"][client]["loss"] for line in store.read_metrics()[1:]}
    assert list(trained) == [1, 2, 3]
    for kind in KINDS:
        assert points(store, kind, f"train/{client}/loss") == [[n, pytest.approx(v)] for n, v in trained.items()], kind
