"""Each tracker's own reader gives back every committed round, once, however often who sent it was killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.unit.runs.made import make_config
from zk0.config import RunConfig
from zk0.errors import ConfigError
from zk0.runs.store import RunStore
from zk0.tracking import follow, tracker
from zk0.tracking.figures import figures, told_config
from zk0.tracking.follow import Follower
from zk0.tracking.send import without_secrets

CANARY = "canaryCANARYcanary0123456789canaryCANARY"
KILLED = """
import os, signal, sys
from importlib import import_module
from zk0.runs.store import RunStore
from zk0.tracking.send import bring_up_to_date
from zk0.tracking.tracker import KINDS
module, name = KINDS[sys.argv[2]].maker.split(":")
kind, left = getattr(import_module(module), name), int(sys.argv[3])
whole = kind.log
def log(self, *arguments):
    global left
    whole(self, *arguments)
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
kind.log = log
bring_up_to_date(RunStore.open(sys.argv[1]), sys.argv[2])
"""
"""Sends, and dies at once after so many rounds."""
READERS = {
    "tensorboard": """
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
read = EventAccumulator(folder)
read.Reload()
points = [(event.step, event.value) for event in read.Scalars(metric)]
""",
    "wandb": """
from pathlib import Path
from wandb.proto import wandb_internal_pb2
from wandb.sdk.internal.datastore import DataStore
points = []
for file in Path(folder).glob("offline-run-*/run-*.wandb"):
    store = DataStore()
    store.open_for_scan(str(file))
    while (found := store.scan_data()) is not None:
        record = wandb_internal_pb2.Record()
        record.ParseFromString(found)
        for item in record.history.item:
            if metric in (item.key, *item.nested_key):
                points.append((record.history.step.num, float(item.value_json)))
""",
    "trackio": """
import os, subprocess, sys
from pathlib import Path
words = ["get", "metric", "--project", "arms", "--run", run, "--metric", metric, "--json"]
environment = {**os.environ, "TRACKIO_DIR": folder}
command = [Path(sys.executable).with_name("trackio"), *words]
said = subprocess.run(command, env=environment, capture_output=True, check=True)
points = [(row["step"], row["value"]) for row in json.loads(said.stdout)["values"]]
""",
    "mlflow": """
import os
os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
from pathlib import Path
from mlflow import MlflowClient
read = MlflowClient(tracking_uri=Path(folder).as_uri())
[run] = read.search_runs([read.get_experiment_by_name("arms").experiment_id])
points = [(point.step, point.value) for point in read.get_metric_history(run.info.run_id, metric)]
""",
}
"""tracking.kinds -> what reads the points of one metric from the tracker's folder, by the tracker's own means."""


KILLS: dict[str, tuple[int, ...]] = {"tensorboard": (2, 1), "wandb": (), "trackio": (2, 1), "mlflow": (2,)}
"""tracking.kinds -> rounds after which who sends is killed; wandb's file is made anew each time.
All of them are killed twice with their run in tests/integration/test_trackers.py."""


def run_of(tmp_path: Path, **tracking: Any) -> RunStore:
    tracking = {"kinds": ["mlflow"], "project": "arms", **tracking}
    return RunStore.create_or_open(make_config(tmp_path / "outputs", tracking=tracking), "tracked")


def commit(store: RunStore, *rounds: int) -> None:
    import numpy as np

    for number in rounds:
        metrics = {
            "summary": {"loss": 1.0, "interval_95": {"loss": [0.5, 1.5]}},
            "train": {"left": {"loss": 1 / (number + 1), "cause": "none", "episodes": {"loss": [1.0]}}},
            "failures": [],
            "committed_at": datetime(2026, 11, 26, 12, number, tzinfo=UTC).isoformat(),
        }
        store.commit(
            number,
            arrays={"w": np.zeros(2, np.float32)},
            strategy_tensors={},
            strategy_scalars={},
            metrics=metrics,
            results=[],
        )


def child(code: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    secrets = {"WANDB_API_KEY": CANARY, "MLFLOW_TRACKING_PASSWORD": CANARY, "HF_TOKEN": f"hf_{CANARY}"}
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, **secrets, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def points(store: RunStore, kind: str, metric: str = "train/left/loss") -> list[list[float]]:
    known = {"folder": str(store.folder / "tracking" / kind), "run": f"{store.info.name}-{store.info.id[:6]}"}
    head = "".join(f"{name} = {value!r}\n" for name, value in {**known, "metric": metric}.items())
    done = child(f"import json\n{head}{READERS[kind]}\nprint(json.dumps(points))")
    assert done.returncode == 0, done.stderr
    found: list[list[float]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("kind", tracker.KINDS)
def test_a_tracker_has_each_round_once_although_who_sends_was_killed(
    tmp_path: Path, kind: str, told: list[str]
) -> None:
    store = run_of(tmp_path)
    commit(store, 0, 1, 2)
    for rounds in KILLS[kind]:
        died = child(KILLED, str(store.folder), kind, str(rounds)).returncode
        assert died == -signal.SIGKILL or (died == 0 and rounds == 1), "nothing was left to send"
    commit(store, 3)
    Follower(store.folder, [kind]).follow(3)
    assert told == []
    assert points(store, kind) == [[number, pytest.approx(1 / (number + 1))] for number in range(4)]
    written = [path for path in (store.folder / "tracking").rglob("*") if path.is_file()]
    assert [path for path in written if CANARY.encode() in path.read_bytes()] == []


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes a question and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://someone:{CANARY}@127.0.0.1:{server.getsockname()[1]}"


def test_a_tracker_that_hangs_is_left_and_said_once(
    tmp_path: Path, silent: str, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "WITHIN_S", 1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", silent)
    store = run_of(tmp_path, mode="online")
    commit(store, 0)
    follower, started = Follower(store.folder, ["mlflow"]), time.monotonic()
    follower.follow(0)
    assert time.monotonic() - started < 1 + follow.GRACE_S
    follower.follow(0)
    [said] = warnings
    assert said.startswith("tracker mlflow has not round 0: it took longer than 1 s; the run goes on without it")
    assert "`zk0 resume tracked`" in said


def test_a_trackers_fault_is_told_in_its_own_words_without_secrets(
    tmp_path: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"nosuch://someone:{CANARY}@place")
    store = run_of(tmp_path, mode="online")
    commit(store, 0)
    Follower(store.folder, ["mlflow"]).follow(0)
    [said] = warnings
    assert "nosuch://***@place" in said
    assert CANARY not in said


def test_secrets_of_the_environment_are_left_out() -> None:
    environment = {"WANDB_API_KEY": "abcdef123", "NO_TOKENS_AT_ALL": "true", "HOME": "/home/me"}
    said = without_secrets("401 for abcdef123 at\nhttps://me:pw@host/x true /home/me", environment)
    assert said == "401 for *** at https://***@host/x true /home/me"


def test_a_tracker_that_is_not_installed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tracker.KINDS, "mlflow", tracker.Kind("no_such_module", ""))
    with pytest.raises(ConfigError, match=r"mlflow is not installed; `pip install 'zk0\[mlflow\]'`, or leave it out"):
        tracker.check(run_of(tmp_path).config)


def test_all_that_are_installed_by_the_extras_are_found(tmp_path: Path) -> None:
    tracker.check(run_of(tmp_path, kinds=list(tracker.KINDS)).config)


def test_a_round_as_figures() -> None:
    line = {
        "server_round": 3,
        "train": {"left": {"loss": 0.5, "episodes": {"loss": [1.0]}, "cause": "none", "done": True}},
        "summary": {"interval_95": {"loss": [0.1, 0.2]}, "train_loss": None},
        "failures": [{"client": "right"}],
        "change": {"mean": 1.0},
    }
    assert figures(line) == {
        "train/left/loss": 0.5,
        "summary/interval_95/loss/low": 0.1,
        "summary/interval_95/loss/high": 0.2,
        "failures": 1.0,
    }


def test_a_tracker_is_told_of_no_folder_of_this_machine(tmp_path: Path) -> None:
    config = make_config(
        tmp_path, evaluation={"datasets": [{"name": "new", "repo_id": "a/b", "root": "/secret/place"}]}
    )
    told = json.dumps(told_config(config))
    assert "/secret/place" not in told
    assert "/data" not in told
    assert "lab/base" in told


def test_a_tracker_changes_nothing_of_a_run(tmp_path: Path) -> None:
    plain, tracked = make_config(tmp_path), make_config(tmp_path, tracking={"kinds": ["wandb"]})
    assert plain.digest == tracked.digest


@pytest.mark.parametrize(
    ("tracking", "message"), [({"kinds": ["wandb", "wandb"]}, "given more than once: wandb"), ({"project": "a/b"}, "b")]
)
def test_what_no_tracker_takes_is_refused(tracking: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunConfig.model_validate(
            {"clients": [{"name": "a", "repo_id": "o/a"}], "policy": {"path": "o/p"}, "tracking": tracking}
        )
