"""The report of a run as a person sees it: in Chromium, on a screen and on a phone, without a network."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.integration.browser import WIDTHS, alone, needs_chromium
from zk0.config import RunConfig
from zk0.errors import ClientError
from zk0.layout import CHARTS_FOLDER, COMPARE_FOLDER, COMPARISON_FILE, MEMORY_FILE, METRICS_LINES, REPORT_FILE
from zk0.memory import client_limits
from zk0.memory.sampler import ENDED
from zk0.metrics.success import Success
from zk0.page import facts
from zk0.page.story import read_story
from zk0.page.write import page, write_page
from zk0.runs.progress import read_progress
from zk0.runs.store import RunStore
from zk0.work import attempts, quarantine

START = time.time() - 300
ODD = "<script>window.odd = 1</script> $\\frac{ & \"'"
CLIENTS = ("kitchen", "workshop")


def samples(folder: Path, *lines: tuple[float, str, int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / MEMORY_FILE).open("a") as file:
        for at, phase, pid in lines:
            line = {"at": START + at, "phase": phase, "pid": pid, "started": float(pid), "peak_gib": 0.1 * (1 + at % 7)}
            file.write(json.dumps(line) + "\n")


def evaluation(error: float) -> dict[str, Any]:
    return {
        "action_error_deg": error,
        "gripper_error": 2 * error,
        "loss": error / 5,
        "joints": ["pan", ODD, "gripper"],
        "joint_error": {"pan": error, ODD: 2 * error, "gripper": error},
        "units": {"action_error": "deg", "gripper_error": "0-100"},
        "interval_95": {"action_error_deg": [error - 1, error + 1], "joint_error": {"pan": [error - 1, error + 2]}},
    }


def commit(store: RunStore, number: int, errors: tuple[float, float], at: float, **more: Any) -> None:
    line = {
        "server_round": number,
        "evaluate": {name: evaluation(error) for name, error in zip(CLIENTS, errors, strict=True)},
        "train": {name: {"loss": 1.0 / (number + 1), "num_examples": 9} for name in CLIENTS} if number else {},
        "summary": {"action_error_deg": sum(errors) / 2, "gripper_error": 3.0, "loss": 0.5},
        "duration_s": 60.0,
        "committed_at": datetime.fromtimestamp(START + at, UTC).isoformat(),
        "failures": [],
    }
    with (store.folder / METRICS_LINES).open("a") as file:
        file.write(json.dumps(line | more) + "\n")


@pytest.fixture
def troubled(small_config: Callable[..., RunConfig]) -> RunStore:
    """Three kills, one out-of-memory, one refused update; and words that try to be markup."""
    store = RunStore.create_or_open(small_config(federation__num_rounds=3), "troubled")
    samples(store.folder, (0, "start", 1), (40, "evaluate", 1), (60, "commit", 1), (80, "fit", 1))
    samples(store.folder, (100, "start", 2), (130, "fit", 2), (150, "commit", 2), (170, "fit", 2))
    samples(store.folder, (200, "start", 3), (240, "fit", 3), (260, "start", 3), (262, ENDED, 3))
    work = store.task("train", 1, "kitchen").folder
    samples(work, (70, "load", 11), (75, "train", 11), (85, "train", 12))
    commit(store, 0, (8.0, 6.0), 60)
    refused = {"client": "workshop", "server_round": 1, "kind": "train", "cause": "bad_data", "message": f"norm {ODD}"}
    commit(store, 1, (5.0, 5.5), 150, failures=[refused])
    attempts.note_failure(store.task("train", 1, "kitchen"), ClientError("lost", "was killed by SIGKILL"))
    attempts.note_failure(store.task("train", 1, "kitchen"), ClientError("out_of_memory", "no room"))
    client_limits.ran_out(store.task("train", 1, "kitchen"), 4, "used 3 GiB of 2 GiB")
    return store


def test_every_kill_failure_and_decision_is_told(troubled: RunStore) -> None:
    quarantine.put(troubled.folder, "workshop", 1, ["too large"])
    story = read_story(troubled, read_progress(troubled.folder).rounds, running=False)
    told = [(event.kind, event.who, event.server_round) for event in story.events]
    assert told.count(("killed", "run", 1)) == 1
    assert told.count(("killed", "run", 2)) == 1
    assert [event.text.split(" (")[1][:4] for event in story.events if event.kind == "failed"] == ["lost", "out_"]
    for expected in (
        ("smaller batch", "kitchen", 1),
        ("refused", "workshop", 1),
        ("quarantined", "workshop", 1),
        ("went on", "run", 2),
        ("ended", "run", 2),
    ):
        assert expected in told
    of_the_run = [event.kind for event in story.events if event.who == "run"]
    assert of_the_run == ["began", "killed", "went on", "killed", "went on", "ended"]


def test_a_pruned_round_tells_of_its_attempts_by_its_line(troubled: RunStore) -> None:
    fit = {"kitchen": {"loss": 0.1, "attempts": 3, "failed_attempts": ["lost", "timeout"]}}
    commit(troubled, 2, (5.0, 5.0), 170, train=fit, adaptive={"changes": ["learning rate x 0.5"]})
    story = read_story(troubled, read_progress(troubled.folder).rounds, running=True)
    texts = {event.kind: event.text for event in story.events}
    assert texts["retried"] == "done at attempt 3, after lost, timeout"
    assert texts["adaptive"] == "learning rate x 0.5"
    assert "ended" not in texts, "somebody advances it now"


@needs_chromium
def test_the_page_opens_without_a_network_an_error_or_a_word_out_of_sight(troubled: RunStore) -> None:
    (troubled.folder / COMPARE_FOLDER).mkdir()
    arms = [{"name": "federated", "mean": 5.0, "interval_95": [4.0, 6.0]}, {"name": "pooled", "mean": 4.0}]
    (troubled.folder / COMPARE_FOLDER / COMPARISON_FILE).write_text(json.dumps({"unit": "deg", "arms": arms}))
    path = write_page(troubled)
    assert path == troubled.folder / REPORT_FILE
    for width in WIDTHS:
        with alone(path, width) as window:
            text = window.inner_text("body")
            assert window.evaluate("document.documentElement.scrollWidth") <= width, "the page is wider than the screen"
            assert window.evaluate("window.odd") is None
            assert window.locator("svg").count() >= 9
        assert text.count("died without a word") == 2
        for words in (
            "was killed by SIGKILL",
            "out_of_memory",
            "micro-batch 4 -> 2",
            f"norm {ODD}",
            "pooled",
            "-37.5%",
        ):
            assert words in text, words


def test_a_run_without_a_round_has_a_page_too(small_config: Callable[..., RunConfig]) -> None:
    store = RunStore.create_or_open(small_config(), "new")
    text = page(store)
    assert "No round is committed yet" in text
    with store.lock():
        assert "running" in page(store)


def test_videos_are_in_the_page_as_far_as_there_is_room(
    small_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = [{"name": "bench", "type": "zk0_so101", "episodes": 4}]
    store = RunStore.create_or_open(small_config(evaluation__environments=bench), "filmed")
    for number in (0, 1):
        folder = store.task("rollout", number, "bench").folder / "videos"
        folder.mkdir(parents=True)
        (folder / "eval_episode_0.mp4").write_bytes(bytes(100 + number))
        commit(store, number, (8.0, 6.0), 60, rollout={"bench": Success(number, 4).figures()})
    assert page(store).count("data:video/mp4") == 2
    monkeypatch.setattr(facts, "MOST_VIDEO_BYTES", 150)
    text = page(store)
    assert text.count("data:video/mp4") == 1
    assert "eval_episode_0.mp4" in text
    assert "1/4 = 25.0%" in text
    assert not (store.folder / CHARTS_FOLDER).exists(), "who only looks writes nothing"
