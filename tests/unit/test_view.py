"""zk0.runs.progress, zk0.report.terminal and zk0.report.live on run directories as a run writes them."""

import fcntl
import io
import json
import os
import re
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from rich.console import Console

from zk0.metrics.success import Success
from zk0.report.live import LiveView, events
from zk0.report.terminal import closing_view, status_view, summary_table
from zk0.runs.progress import read_progress, status_json

CLIENTS = ("kitchen", "workshop")


def text_of(renderable) -> str:
    console = Console(file=io.StringIO(), width=140)
    console.print(renderable)
    return console.file.getvalue()


class Run:
    """Writes a run directory piece by piece, in the formats of a real run."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        config = {
            "federation": {"num_rounds": 3},
            "training": {"steps": 35},
            "clients": [{"name": name} for name in CLIENTS],
            "evaluation": {"datasets": [{"name": "attic"}]},
        }
        (folder / "run.json").write_text(json.dumps({"id": "x", "config": config}))

    def work(self, server_round, client, name, **content):
        path = self.folder / "rounds" / f"{server_round:04d}" / "clients" / client / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))

    def commit(self, server_round, errors, failures=(), duration_s=60.0, **more):
        names = (*CLIENTS, "attic")
        line = {
            "server_round": server_round,
            "train": {name: {"loss": 0.5 - server_round / 10, "num_examples": 100} for name in CLIENTS},
            "evaluate": {
                name: {"action_error_deg": error, "gripper_error": 10 * error, "loss": error / 10}
                for name, error in zip(names, errors, strict=False)
            },
            "summary": {"action_error_deg": sum(errors[:2]) / 2, "unseen_action_error_deg": 7.0, "train_loss": 0.4},
            "failures": list(failures),
            "duration_s": duration_s,
        }
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line | more) + "\n")

    @contextmanager
    def lock(self, pid=None):
        with (self.folder / "run.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(json.dumps({"pid": pid or os.getpid(), "host": socket.gethostname()}))
            file.flush()
            yield


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "demo")


FAILURE = {"client": "workshop", "server_round": 1, "kind": "train", "cause": "out_of_memory", "message": "killed"}


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


def test_what_happens_in_an_environment_and_what_came_of_it(run):
    info = json.loads((run.folder / "run.json").read_text())
    info["config"]["evaluation"]["environments"] = [{"name": "bench"}, {"name": "garden"}]
    (run.folder / "run.json").write_text(json.dumps(info))
    run.work(0, "bench", "rollout")
    clip = run.folder / "rounds" / "0000" / "clients" / "bench" / "videos" / "eval_episode_0.mp4"
    clip.parent.mkdir()
    clip.touch()
    bench, garden = Success(3, 4).figures(), Success(0, 4).figures()
    run.commit(0, (8.0, 6.0, 7.0), rollout={"bench": bench, "garden": garden}, summary=Success(3, 8).figures())
    lost = {"client": "garden", "kind": "rollout", "cause": "lost", "message": "killed"}
    run.commit(1, (8.0, 6.0, 7.0), failures=[lost])
    before = read_progress(run.folder)
    run.work(2, "bench", "progress")
    (run.folder / "rounds" / "0002" / "clients" / "bench" / "rollout.lock").touch()
    now = read_progress(run.folder)
    assert [(item.name, item.phase, item.server_round) for item in now.environments] == [
        ("bench", "rolling out", 0),
        ("garden", "failed", 0),
    ]
    assert [item.videos for item in now.environments] == [(str(clip),), ()]
    assert status_json(run.folder)["environments"][0]["success"] == bench
    text = text_of(status_view(run.folder))
    assert "3/4 = 75.0% [30.1%, 95.4%]" in text
    assert "failed, lost: killed" in text
    assert f"videos bench: {clip.parent}" in text
    assert "round 2 of 3  bench: rolling out" in list(events(before, now))
    run.commit(2, (8.0, 6.0, 7.0), rollout={"bench": garden, "garden": bench}, summary=Success(3, 8).figures())
    assert any("success 3/8 = 37.5%" in said for said in events(now, read_progress(run.folder)))
    closing = text_of(closing_view(run.folder))
    assert "bench" in closing
    assert re.search(r"garden\s*│\s*0/4 = 0.0% \[0.0%, 49.0%\]\s*│\s*3/4 = 75.0%", closing)


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
    assert kitchen().action_error_deg == 8.0


def test_a_failed_client_is_named_with_its_cause(run):
    run.commit(0, (8.0, 6.0, 7.0))
    run.commit(1, (7.0, 6.0, 7.0), failures=[FAILURE])
    assert "failed, out_of_memory: killed" in text_of(status_view(run.folder))


def test_the_view_shows_round_clients_memory_time_and_link(run):
    run.commit(0, (8.0, 6.0, 7.0), duration_s=10.0)
    run.commit(1, (7.0, 5.0, 6.5), duration_s=100.0)
    run.work(2, "kitchen", "progress", kind="train", step=12, steps=35, loss=0.41, pid=1, updated_at=time.time())
    with run.lock():
        text = text_of(status_view(run.folder, ui_url="http://127.0.0.1:4200/runs/1"))
    for part in ("demo", "running", "round 2 of 3", "kitchen", "training 12 of 35", "0.4100", "7.00", "attic (unseen)"):
        assert part in text
    for part in ("elapsed 1 min 50 s", "left 3 min", "RAM ", " GiB, host ", "http://127.0.0.1:4200/runs/1"):
        assert part in text


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
        assert progress.clients[0].action_error_deg == 7.0
        text_of(status_view(run.folder))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"config": 3}', '{"config": {"federation": {"num_rounds": "x"}}}'])
def test_a_broken_run_json_does_no_harm(run, content):
    (run.folder / "run.json").write_text(content)
    text_of(status_view(run.folder))
    text_of(summary_table(run.folder))
    json.dumps(status_json(run.folder))


def test_the_summary_puts_the_base_beside_the_result(run):
    run.commit(0, (8.0, 6.0, 10.0))
    run.commit(1, (4.0, 6.0, 9.0))
    rows = {
        line.split("│")[1].strip(): line
        for line in text_of(summary_table(run.folder)).splitlines()
        if "->" in line and "│" in line
    }
    assert list(rows) == ["kitchen", "workshop", "mean of clients", "attic (unseen)"]
    for part in ("8.00 -> 4.00", "-50.0%", "80.0 -> 40.0", "0.800 -> 0.400"):
        assert part in rows["kitchen"]
    assert "+0.0%" in rows["workshop"]
    assert "7.00 -> 5.00" in rows["mean of clients"]
    assert "-10.0%" in rows["attic (unseen)"]


def test_the_mean_compares_the_same_clients(run):
    run.commit(0, (8.0, 6.0, 10.0))
    run.commit(1, (4.0,))
    text = text_of(summary_table(run.folder))
    assert "6.00 -> -" in text
    mean = next(line for line in text.splitlines() if "mean of clients" in line)
    assert "8.00 -> 4.00" in mean


SPREAD = {"action_error_deg": [3.25, 4.75]}


def test_intervals_stand_beside_their_figures(run):
    run.commit(0, (8.0, 6.0, 10.0))
    change = {"mean": -4.0, "interval_95": [-5, -3], "relative_interval_95": [-0.6, -0.4]}
    evaluate = {"kitchen": {"action_error_deg": 4.0, "interval_95": SPREAD}}
    changes = {"datasets": {"kitchen": {"action_error_deg": change}}, "clients": {}}
    summary = {"action_error_deg": 4.0, "interval_95": SPREAD}
    adaptive = {"changes": ["learning rate x 0.5"]}
    before = read_progress(run.folder)
    run.commit(1, (), evaluate=evaluate, change=changes, summary=summary, adaptive=adaptive)
    assert "4.00 [3.25, 4.75]" in text_of(status_view(run.folder))
    assert "-50.0% [-60,-40]" in text_of(summary_table(run.folder))
    committed, decided = (line for line in events(before, read_progress(run.folder)) if "kitchen" not in line)
    assert "action error 4.00 [3.25, 4.75] deg" in committed
    assert decided == "round 1 of 3  adaptive: learning rate x 0.5"


def test_the_best_round_is_shown(run):
    for server_round, error in enumerate((8.0, 5.0, 6.0)):
        run.commit(server_round, (error, error, 1.0))
    assert "best round 1 (action error, deg: 5)" in text_of(status_view(run.folder))
    assert status_json(run.folder)["best"]["server_round"] == 1


def test_a_quick_figure_is_never_set_beside_a_full_one(run):
    quick = {"action_error_deg": 3.0, "loss": 0.3}
    run.commit(0, (), evaluate={"kitchen": {"action_error_deg": 8.0, "loss": 0.8, "quick": quick}})
    now = {"action_error_deg": 2.0, "loss": 0.2, "evaluation": "quick"}
    before = read_progress(run.folder)
    run.commit(1, (), evaluate={"kitchen": now}, summary={"action_error_deg": 2.0}, evaluation="quick")
    text = text_of(summary_table(run.folder))
    assert "3.00 -> 2.00" in text
    assert "8.00" not in text
    assert "(quick)" in text
    assert "2.00 quick" in text_of(status_view(run.folder))
    assert "action error 2.00 deg, on the quick frames" in "\n".join(events(before, read_progress(run.folder)))


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


def test_without_a_terminal_there_is_one_line_per_event(run):
    console = Console(file=io.StringIO(), width=40)
    with run.lock(), LiveView(run.folder, ui_url="http://ui", console=console):
        for server_round in range(4):
            run.commit(server_round, (8.0, 6.0, 7.0))
        (run.folder / "final").mkdir()
    lines = console.file.getvalue().splitlines()
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
