"""What is killed goes on by itself, as the same flow run and with the same bytes."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.service import CommandLine, ServedCommandLine, state_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedCommandLine]:
    service = ServedCommandLine(tmp_path_factory.mktemp("recovery"))
    yield service
    service.close()


def begin(served: ServedCommandLine, name: str) -> str:
    """Start a run, and come back when its first training is under way."""
    flow_run = served.start_nightly(config=str(served.config()), overrides=[], name=name)
    served.until((served.outputs / name / "rounds" / "0001" / "clients" / "kitchen" / "progress.json").is_file, 240)
    return flow_run


def resumed(served: ServedCommandLine, name: str) -> float:
    """Seconds until somebody advances the run again."""
    lock = served.outputs / name / "run.lock"
    before = lock.read_text()
    return served.until(lambda: lock.read_text() not in ("", before), 120)


def test_a_killed_flow_goes_on_as_the_same_flow_run_and_after_a_power_cut_serve_alone_is_enough(
    served: ServedCommandLine, zk0: CommandLine, reference: str
) -> None:
    served.serve()
    flow_run = begin(served, "killed")
    process = served.flow_process()
    assert process is not None
    process.kill()
    seconds = resumed(served, "killed")
    print(f"running again after {seconds:.0f} s")
    assert seconds < 60

    served.until((served.outputs / "killed" / "rounds" / "0001" / "manifest.json").is_file, 120)
    served.kill_everything()
    started = time.monotonic()
    served.serve()
    resumed(served, "killed")
    seconds = time.monotonic() - started
    print(f"running again after {seconds:.0f} s")
    assert seconds < 90

    served.until(lambda: state_of(served.flow_run(flow_run)) == "Completed", 300)
    again = served.flow_run(flow_run)
    assert again["run_count"] == 3
    assert again["name"] == "killed"
    assert {"zk0", "run:killed"} <= set(again["tags"])
    assert served.digest("killed", 2) == zk0.digest("reference", 2)
    orphans = served.post("/task_runs/filter", {"task_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}}})
    assert orphans == [], "task runs that Prefect believes alive"


@pytest.mark.exhaustive
def test_without_prefects_database_the_run_goes_on(served: ServedCommandLine, zk0: CommandLine, reference: str) -> None:
    begin(served, "forgotten")
    served.kill_everything()
    served.forget()
    lock = served.outputs / "forgotten" / "run.lock"
    os.utime(lock, (time.time() - 60, time.time() - 60))
    served.serve()
    served.until((served.outputs / "forgotten" / "final").is_dir, 300)
    assert served.digest("forgotten", 2) == zk0.digest("reference", 2)
    assert [item["name"] for item in served.flow_runs()] == ["forgotten"]


def test_serve_leaves_nothing_behind(served: ServedCommandLine) -> None:
    begin(served, "ended")
    assert served.stop() == 0
    assert served.processes() == []
    assert not list(Path(served.outputs / "ended" / "rounds" / "0002").glob("manifest.json"))
