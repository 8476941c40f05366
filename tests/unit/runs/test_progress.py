"""zk0.runs.progress on run directories as a run writes them."""

import fcntl
import json
import os
import subprocess
import sys
import time

import pytest

from tests.unit.written import Run, text_of
from zk0.report.terminal import status_view, summary_table
from zk0.runs.progress import read_progress, status_json


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "demo")


def test_states(run, tmp_path):
    assert read_progress(tmp_path / "nothing").state == "starting"
    assert read_progress(run.folder).state == "interrupted"
    with run.lock():
        assert read_progress(run.folder).state == "running"
        assert read_progress(run.folder).pid == os.getpid()
    assert read_progress(run.folder).state == "interrupted"
    for server_round in range(4):
        run.commit(server_round, (8.0, 6.0, 7.0))
    assert read_progress(run.folder).state == "interrupted"  # the final policy is still to be written
    (run.folder / "final").mkdir()
    assert read_progress(run.folder).state == "finished"
    assert {client.phase for client in read_progress(run.folder).clients} == {"done"}


def test_looking_does_not_keep_the_lock(run):
    with run.lock():
        read_progress(run.folder)
    read_progress(run.folder)
    with (run.folder / "run.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_phases_of_a_client(run):
    run.commit(0, (8.0, 6.0, 7.0))

    def kitchen():
        return read_progress(run.folder).clients[0]

    assert kitchen().phase == "waiting"
    run.work(1, "kitchen", "progress", kind="train", step=12, steps=35, loss=0.41, pid=1, updated_at=time.time())
    assert (kitchen().phase, kitchen().step, kitchen().steps, kitchen().loss) == ("training", 12, 35, 0.41)
    run.work(1, "kitchen", "train", kind="train")
    assert (kitchen().phase, kitchen().step) == ("trained", None)
    run.work(1, "kitchen", "progress", kind="evaluate", step=1, steps=4, loss=0.0, pid=1, updated_at=time.time())
    assert kitchen().phase == "evaluating"
    assert kitchen().loss == 0.5  # the training loss of the last fit, not the evaluation's
    run.work(1, "kitchen", "evaluate", kind="evaluate")
    assert kitchen().phase == "done"
    assert (kitchen().action_error, kitchen().unit) == (8.0, "deg")


def test_time_left_before_the_first_round_comes_from_steps(run):
    run.commit(0, (8.0, 6.0, 7.0))
    os.utime(run.folder / "metrics.jsonl", (time.time() - 10, time.time() - 10))
    assert read_progress(run.folder).eta_s is None
    run.work(1, "kitchen", "train", kind="train")
    with run.lock():
        os.utime(run.folder / "run.lock", (time.time() - 10, time.time() - 10))
        eta_s = read_progress(run.folder).eta_s
    assert eta_s == pytest.approx(50, abs=2)  # half a round in 10 s: 20 s a round, three rounds, 10 s done


def test_torn_and_doubled_lines_do_no_harm(run):
    run.commit(0, (8.0, 6.0, 7.0))
    run.commit(1, (9.0, 9.0, 9.0))
    run.commit(1, (7.0, 5.0, 6.0))
    with (run.folder / "metrics.jsonl").open("ab") as file:
        file.write(b'{"server_round": 2, "train"\n[1]\n\xff\xfe\n{"server_round": 2, "eval')
    run.work(2, "kitchen", "progress")
    torn = run.folder / "rounds/0002/clients/kitchen/progress.json"
    for content in ("", "{", "[]", "null", '{"kind": 3, "step": "x"}', '{"kind": "train", "step": null}'):
        torn.write_text(content)
        progress = read_progress(run.folder)
        assert [line["server_round"] for line in progress.rounds] == [0, 1]
        assert progress.clients[0].action_error == 7.0
        text_of(status_view(run.folder))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"config": 3}', '{"config": {"federation": {"num_rounds": "x"}}}'])
def test_a_broken_run_json_does_no_harm(run, content):
    (run.folder / "run.json").write_text(content)
    text_of(status_view(run.folder))
    text_of(summary_table(run.folder))
    json.dumps(status_json(run.folder))


def test_status_json_has_the_documented_keys(run):
    run.commit(0, (8.0, 6.0, 7.0))
    with run.lock():
        status = json.loads(json.dumps(status_json(run.folder)))
    documented = status_json.__doc__.split("Returns:")[1]
    assert all(f"`{key}`" in documented for key in status)
    assert documented.count("`") // 2 == len(status)
    assert status["state"] == "running"
    assert status["memory"]["tree_rss_bytes"] > 0
    assert status["clients"][0]["name"] == "kitchen"


def test_reading_while_a_run_writes(run):
    """A reader beside a busy writer never fails, and never sees a round go back."""
    code = f"""
import json, pathlib, shutil
folder = pathlib.Path({str(run.folder)!r})
for n in range(300):
    work = folder / "rounds" / f"{{n // 100:04d}}" / "clients" / "kitchen"
    work.mkdir(parents=True, exist_ok=True)
    (work / "progress.json").write_text(json.dumps({{"kind": "train", "step": n, "steps": 300, "loss": 0.1}}))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({{"server_round": n // 100, "duration_s": 1.0}}) + "\\n")
    shutil.rmtree(work)
"""
    seen = 0
    with subprocess.Popen([sys.executable, "-c", code]) as writer:
        while writer.poll() is None:
            progress = read_progress(run.folder)
            assert progress.server_round >= seen
            seen = progress.server_round
    assert writer.returncode == 0
    assert seen > 0
