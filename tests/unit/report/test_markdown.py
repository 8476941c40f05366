"""Tables, summary and message of a run, from its metrics alone."""

from pathlib import Path
from typing import Any

from benchmarks.service import small_run
from zk0.config import validate_config
from zk0.metrics.success import Success
from zk0.report.charts import CHARTS, draw_charts
from zk0.report.markdown import round_message, round_table, summary
from zk0.runs.store import RunStore


def line(server_round: int, error: float, **changes: Any) -> dict[str, Any]:
    fit = {"loss": 0.5, "num_examples": 30, "duration_s": 2.0, "update_bytes": 2**20}
    fit |= {"peak_ram_bytes": 2**30, "peak_rss_bytes": 2**29}  # half of it is in DataLoader processes
    trained = {} if server_round == 0 else {"kitchen": {**fit, "attempts": 2, "failed_attempts": ["lost"]}}
    evaluated = {name: {"action_error_deg": error, "loss": 0.4} for name in ("kitchen", "workshop")}
    record = {"server_round": server_round, "train": trained, "evaluate": evaluated, "failures": []}
    return {**record, "summary": {"action_error_deg": error}, **changes}


def success(successes: int, episodes: int) -> dict[str, Any]:
    costs = {"duration_s": 3.0, "peak_ram_bytes": 2**31, "peak_rss_bytes": 2**30}
    return Success(successes, episodes).figures() | costs


LOST = {"client": "workshop", "kind": "train", "cause": "timeout", "message": "took too long", "attempts": 3}
ROUNDS = [line(0, 8.0), line(1, 6.0, failures=[LOST]), line(2, 4.0)]


def test_a_row_says_what_a_client_did_and_what_it_cost(store: RunStore) -> None:
    row = round_table(store.config, 2, ROUNDS)[0]
    assert (row["client"], row["attempts"], row["retried after"]) == ("kitchen", 2, "lost")
    first = ["client", "error before, deg", "error after, deg", "change, deg", "success", "attempts"]
    assert list(row)[: len(first)] == first
    assert [row[column] for column in first] == ["kitchen", "6.00", "4.00", "-2.00", "", 2]
    assert (row["peak RAM, MiB"], row["sent, MiB"]) == ("1024", "1.00")
    assert "peak VRAM, MiB" not in row, "nothing to say in any row"


def test_memory_is_shown_in_bytes_and_percent_with_the_micro_batch(store: RunStore, tmp_path: Path) -> None:
    last = line(2, 4.0, orchestrator={"pid": 1, "rss_bytes": 2**28})
    last["train"]["kitchen"] |= {"peak_ram_percent": 12.5, "peak_vram_bytes": 2**31, "peak_vram_percent": 50.0}
    last["train"]["kitchen"] |= {"micro_batch_size": 2}
    last["rollout"] = {"bench": success(1, 4)}
    row = round_table(store.config, 2, [*ROUNDS[:2], last])[0]
    assert (row["peak RAM, %"], row["peak VRAM, MiB"], row["peak VRAM, %"]) == ("12.5", "2048", "50.0")
    assert row["micro-batch"] == 2
    assert set(draw_charts(tmp_path, [*ROUNDS[:2], last])) == set(CHARTS)


def test_table_and_chart_of_memory_are_of_the_whole_process_tree(store: RunStore) -> None:
    assert round_table(store.config, 2, ROUNDS)[0]["peak RAM, MiB"] == "1024"
    _, _, part, key, scale = CHARTS["peak-memory"]
    assert scale(ROUNDS[2][part]["kitchen"][key]) == 1


BENCHES = [{"name": name, "type": "zk0_so101", "videos": 2} for name in ("bench", "attic")]


def test_success_in_closed_loop_stands_in_table_summary_and_message(tmp_path: Path) -> None:
    config = validate_config(small_run(tmp_path / "outputs", evaluation__environments=BENCHES))
    store = RunStore.create_or_open(config, "shown")
    lost = {"client": "attic", "kind": "rollout", "cause": "lost", "message": "killed", "attempts": 3}
    rounds = [
        line(0, 8.0, rollout={"bench": success(1, 4), "attic": success(2, 4)}, failures=[]),
        line(1, 6.0, rollout={"bench": success(3, 4)}, failures=[lost], summary=success(3, 4)),
    ]
    clips = store.round_folder(1) / "clients" / "bench" / "videos"
    clips.mkdir(parents=True)
    for number in (10, 9):
        (clips / f"eval_episode_{number}.mp4").touch()
    table = {row["client"]: row for row in round_table(config, 1, rounds)}
    assert table["bench (simulated)"]["success"] == "3/4 = 75.0% [30.1%, 95.4%]"
    assert (table["bench (simulated)"]["duration, s"], table["kitchen"]["success"]) == ("3.0", "")
    assert table["bench (simulated)"]["peak RAM, MiB"] == "2048"
    assert (table["attic (simulated)"]["attempts"], table["attic (simulated)"]["failure"]) == (3, "lost: killed")
    assert len({tuple(row) for row in table.values()}) == 1, "all rows have the same columns"
    text = summary(store, rounds)
    assert "| bench | 1/4 = 25.0% [4.6%, 69.9%] | 3/4 = 75.0% [30.1%, 95.4%] |" in text
    assert "| attic | 2/4 = 50.0% [15.0%, 85.0%] |  |" in text
    assert text.index("eval_episode_9.mp4") < text.index("eval_episode_10.mp4")
    assert "committed, success 3/4 = 75.0%" in round_message(config, 1, rounds)
    assert "Success in closed loop" not in summary(store, ROUNDS)


def test_a_client_that_sat_out_is_named_with_its_cause(store: RunStore) -> None:
    row = round_table(store.config, 1, ROUNDS)[1]
    assert (row["attempts"], row["failure"]) == (3, "timeout: took too long")
    assert round_table(store.config, 2, ROUNDS)[1]["rounds sat out"] == "1"
    assert "- round 1: workshop, timeout: took too long" in summary(store, ROUNDS)


def test_the_summary_compares_with_the_base(store: RunStore) -> None:
    assert "| kitchen | 8.00 | 4.00 | -50.0% | 0.4000 | 0.4000 |" in summary(store, ROUNDS)


def test_intervals_and_changes_stand_in_table_and_summary(store: RunStore) -> None:
    last = line(2, 4.0, change={"datasets": {"kitchen": {"action_error_deg": {"mean": -4, "interval_95": [-5, -3]}}}})
    last["evaluate"]["kitchen"] |= {
        "interval_95": {"action_error_deg": [3, 5], "joint_error": {"gripper": [1, 2.5]}},
        "joints": ["elbow", "gripper"],
        "joint_error": {"gripper": 2, "elbow": 4},
    }
    rounds = [*ROUNDS[:2], last]
    row = round_table(store.config, 2, rounds)[0]
    assert (row["95 % interval, deg"], row["frames"]) == ("[3.00, 5.00]", "full")
    assert row["change since round 0, deg"] == "-4.00 [-5.00, -3.00]"
    text = summary(store, rounds)
    assert "| kitchen | 8.00 | 4.00 [3.00, 5.00] | -50.0% (-4.00 [-5.00, -3.00] deg) |" in text
    assert "| held out | elbow | gripper |" in text
    assert "| kitchen |  -> 4.00 |  -> 2.00 [1.00, 2.50] |" in text


def test_the_summary_names_the_best_round_and_what_was_decided(store: RunStore) -> None:
    decided = line(3, 5.0, adaptive={"changes": ["mu 0.1 (0 before): the held-out loss rose"]})
    text = summary(store, [*ROUNDS, decided])
    assert "The best so far is round 2 (action error, deg: 4), which is kept." in text
    assert "- round 3: mu 0.1 (0 before): the held-out loss rose" in text


def test_a_round_is_set_beside_the_one_before_on_the_same_frames(store: RunStore) -> None:
    quick = line(1, 3.0, evaluation="quick")
    base = line(0, 8.0)
    base["evaluate"]["kitchen"]["quick"] = {"action_error_deg": 3.5, "loss": 0.4}
    row = round_table(store.config, 1, [base, quick])[0]
    assert (row["error before, deg"], row["error after, deg"], row["frames"]) == ("3.50", "3.00", "quick")
    text = summary(store, [base, quick])
    assert "| kitchen | 3.50 | 3.00 |" in text
    assert "on the quick frames" in text
