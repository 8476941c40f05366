"""benchmarks.chaos: what it sees of a run, by which a kill is aimed and its phase is told."""

import json
import os
import time
from pathlib import Path

import pytest

from benchmarks.chaos import report
from benchmarks.chaos.inotify import CREATE, MOVED_TO, OPEN, Event, Tree
from benchmarks.chaos.phases import AIMS, PHASES, Progress, phase_of
from benchmarks.chaos.plan import deck, shots
from zk0.files import atomic

CLIENTS = ("kitchen", "workshop")
DEAD = 4711


@pytest.fixture
def run(tmp_path: Path) -> Progress:
    """A run whose round 0 is committed, and round 1 sampled."""
    folder = tmp_path / "run"
    atomic.write_json(folder / "rounds/0000/manifest.json", {})
    atomic.append_line(folder / "metrics.jsonl", json.dumps({"server_round": 0, "summary": {}}))
    for client in CLIENTS:
        atomic.make_folder(folder / "rounds/0001/clients" / client)
        (folder / "rounds/0001/clients" / client / "train.lock").write_text(str(DEAD))
    (folder / "run.lock").write_text("{}")
    return Progress(folder, CLIENTS, 2, federated=False, committed=0, said="x - round 1: kitchen, workshop\n")


def finish(run: Progress, kind: str) -> None:
    for client in CLIENTS:
        atomic.write_json(run.folder / "rounds/0001/clients" / client / f"{kind}.json", {})
        run.finished[1, client, kind] = {(1, 1)}


def test_each_phase_is_told_by_what_lies_there(run: Progress) -> None:
    here = run.folder / "rounds/0001"
    told = [phase_of(run, {DEAD})]
    (here / "clients/kitchen" / f".update.safetensors.{DEAD}.tmp").touch()
    told.append(phase_of(run, {DEAD}))
    assert phase_of(run, {DEAD + 1}) == "fit", "a temporary file of a worker that died before"
    finish(run, "train")
    told.append(phase_of(run, {DEAD}))
    atomic.write_json(here / "strategy.json", {})
    run.said += "x - round 1: 2 updates aggregated to abc\n"
    told.append(phase_of(run, {DEAD}))
    finish(run, "evaluate")
    told.append(phase_of(run, {DEAD}))
    for name in ("strategy.json", "metrics.json", "manifest.json"):
        time.sleep(0.01)
        atomic.write_json(here / name, {})
        run.committed += name == "manifest.json"
        told.append(phase_of(run, {DEAD}))
    assert told == [
        "fit",
        "writing an update",
        "aggregation",
        "evaluation",
        "commit: strategy.json",
        "commit: metrics.json",
        "commit: manifest.json",
        "commit: metrics.jsonl",
    ]
    atomic.append_line(run.folder / "metrics.jsonl", json.dumps({"summary": {}, "server_round": 1}))
    run.said = ""
    assert phase_of(run, {DEAD}) == "starting"
    run.said, run.verified = "x - hello\n", 2
    assert phase_of(run, {DEAD}) == "sampling"
    (run.folder / "rounds/.trash-0000").mkdir()
    assert phase_of(run, {DEAD}) == "commit: prune"


def test_a_tree_is_watched_from_before_it_exists(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "run")
    atomic.write_json(tmp_path / "other" / "a.json", {})
    atomic.write_json(tmp_path / "run" / "rounds" / "0000" / "manifest.json", {})
    assert Event("rounds/0000/manifest.json", CREATE) in tree.read(1.0)
    atomic.write_json(tmp_path / "run" / "rounds" / "0000" / "manifest.json", {})
    changes = [event for event in tree.read(1.0) if event.what != OPEN]
    assert changes[0] == Event(f"rounds/0000/.manifest.json.{os.getpid()}.tmp", CREATE)
    assert changes[-1] == Event("rounds/0000/manifest.json", MOVED_TO)
    for _ in range(2):
        (tmp_path / "run" / "rounds" / "0000" / "manifest.json").read_bytes()
    assert tree.read(1.0).count(Event("rounds/0000/manifest.json", OPEN)) == 2
    tree.close()


def test_the_deck_hits_every_phase_and_is_the_seeds() -> None:
    cards = deck(3, 100)
    assert cards == deck(3, 100)
    assert cards != deck(4, 100)
    assert set(AIMS) <= {phase for victim, phase in cards if victim == "flow process"}
    assert set(AIMS) <= set(PHASES)
    order = [shot.not_before_round for shot in shots(cards[:9], 4, 3)]
    assert order == sorted(order)


def test_a_campaign_goes_on_and_its_section_is_replaced(tmp_path: Path) -> None:
    kill = {"victim": "flow process", "aimed_at": "fit", "phase": "fit", "half_written": [], "back_s": 12.0}
    record = {"run": "a", "config": "c", "way": "w", "digest": "0" * 64, "wrong": [], "kills": [kill]}
    report.Records(tmp_path / "log", seed=1).add(record)
    report.Records(tmp_path / "log", seed=2).add(record)
    records = report.Records(tmp_path / "log", seed=1)
    cards = [("flow process", "fit"), ("flow process", "fit"), ("everything", "fit")]
    assert records.remaining(cards) == cards[1:]
    path = tmp_path / "reliability.md"
    path.write_text(f"# Reliability\n\n{report.HEADING}\n\nobsolete\n\n## Another\n\nkept\n")
    report.write_section(path, report.markdown(records))
    text = path.read_text()
    assert "obsolete" not in text
    assert text.endswith("## Another\n\nkept\n")
    assert "| flow process | 12.0 | 12.0 | 2 |" in text
    assert "1 in 1 runs with seed 2" in text
