"""What a run looks like on a terminal: `zk0 status` and the closing table."""

import json
import re
import time

import pytest

from tests.unit.written import FAILURE, Run, text_of
from zk0.metrics.success import Success
from zk0.report.live import events
from zk0.report.terminal import closing_view, status_view, summary_table
from zk0.runs.progress import read_progress, status_json


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "demo")


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
