"""The live view of a run, and its plain lines where there is no terminal."""

import io
import subprocess
import sys
import time

import pytest
from rich.console import Console

from tests.unit.written import FAILURE, Run
from zk0.report.live import LiveView, events
from zk0.runs.progress import read_progress


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "demo")


def test_events_name_what_happened_once(run):
    run.commit(0, (8.0, 6.0, 7.0))
    first = read_progress(run.folder)
    run.work(1, "kitchen", "progress", kind="train", step=1, steps=35, loss=0.4, pid=1, updated_at=time.time())
    second = read_progress(run.folder)
    assert list(events(first, second)) == ["round 1 of 3  kitchen: training 1 of 35"]
    run.work(1, "kitchen", "progress", kind="train", step=9, steps=35, loss=0.4, pid=1, updated_at=time.time())
    assert not list(events(second, read_progress(run.folder)))
    run.commit(1, (4.0, 6.0, 7.0), failures=[FAILURE])
    committed, failed = events(second, read_progress(run.folder))
    assert committed.startswith("round 1 of 3 committed  action error 5.00 deg  unseen 7.00 deg  train loss 0.4000")
    assert failed == "round 1 of 3  workshop: failed, out_of_memory: killed"


def test_the_last_rounds_clients_come_before_its_commit(run):
    for server_round in range(3):
        run.commit(server_round, (8.0, 6.0, 7.0))
    before = read_progress(run.folder)
    run.commit(3, (4.0, 6.0, 7.0))
    said = list(events(before, read_progress(run.folder)))
    assert said[:-1]
    assert all(line.endswith("done") for line in said[:-1])
    assert said[-1].startswith("round 3 of 3 committed")


def test_without_a_terminal_there_is_one_line_per_event(run):
    text = io.StringIO()
    with run.lock(), LiveView(run.folder, ui_url="http://ui", console=Console(file=text, width=40)):
        for server_round in range(4):
            run.commit(server_round, (8.0, 6.0, 7.0))
        (run.folder / "final").mkdir()
    lines = text.getvalue().splitlines()
    assert [line.split("committed")[0].strip() for line in lines if "committed" in line][-1:] in (
        ["round 3 of 3"],
        [],  # all rounds were there at the first look
    )
    assert lines[-1] == "demo: finished after 4 min 00 s"


def test_an_error_in_the_block_passes_through(run):
    with pytest.raises(KeyboardInterrupt), LiveView(run.folder, console=Console(file=io.StringIO())):
        raise KeyboardInterrupt


@pytest.mark.parametrize("error", ["", "raise KeyboardInterrupt", "raise ValueError('no')"])
def test_the_terminal_is_restored(run, error):
    run.commit(0, (8.0, 6.0, 7.0))
    code = f"""
import sys, time
from rich.console import Console
from zk0.report.live import LiveView
with LiveView({str(run.folder)!r}, console=Console(force_terminal=True, width=100)):
    time.sleep(0.7)
    print("a line of the run", file=sys.stderr)
    {error}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == (error == "")
    hide, show = "\x1b[?25l", "\x1b[?25h"
    assert done.stdout.count(hide) == done.stdout.count(show) == 1
    assert done.stdout.rindex(show) > done.stdout.rindex(hide)
    assert "kitchen" in done.stdout.split(show)[1]
    assert "a line of the run" in done.stdout + done.stderr
