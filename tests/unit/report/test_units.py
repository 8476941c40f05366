"""A run in other units than degrees: every table, chart, line and key says its own, with three significant digits."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.service import CLIENTS
from tests.unit.runs.made import commit
from tests.unit.written import text_of
from zk0.metrics.scores import best_round
from zk0.report import charts
from zk0.report.live import events
from zk0.report.markdown import round_message, round_table, summary
from zk0.report.terminal import status_view, summary_table
from zk0.report.text import in_brackets, significant
from zk0.runs.progress import read_progress, status_json
from zk0.runs.store import RunStore

ENDS = {"rad": "_rad", "m": "_m", "%": "_percent", "deg": "_deg", None: ""}


def evaluated(error: float, unit: str | None) -> dict[str, Any]:
    key = f"action_error{ENDS[unit]}"
    units = {"action_error": unit, "gripper_error": None, "joint_error": {"elbow": unit, "hand": "m"}}
    spread = {key: [error / 2, error * 2], "joint_error": {"elbow": [error / 2, error * 2]}}
    figures = {key: error, "gripper_error": None, "loss": 0.5, "interval_95": spread, "joints": ["elbow", "hand"]}
    return {**figures, "units": units, "joint_error": {"elbow": error, "hand": error / 10}, "evaluation": "full"}


def line(number: int, errors: tuple[float, float], units: tuple[str | None, str | None]) -> dict[str, Any]:
    evaluate = {name: evaluated(error, unit) for name, error, unit in zip(CLIENTS, errors, units, strict=True)}
    key = f"action_error{ENDS[units[0]] if len(set(units)) == 1 else ''}"
    mean = sum(errors) / 2 if len(set(units)) == 1 else None
    change = {name: {key: {"mean": -0.0412, "interval_95": [-0.05, -0.031]}} for name in CLIENTS}
    record = {"server_round": number, "evaluate": evaluate, "failures": [], "train": {}, "duration_s": 1.0}
    return record | {"summary": {key: mean, f"unseen_{key}": 0.0523}, "change": {"datasets": change}}


def everything(store: RunStore, units: tuple[str | None, str | None]) -> str:
    """All that is said of a run whose errors fall from 0.114 to 0.0731 and 0.00731."""
    rounds = [line(0, (0.114, 0.114), units), line(1, (0.0731, 0.00731), units)]
    before = read_progress(store.folder)
    (store.folder / "metrics.jsonl").write_text("".join(json.dumps(item) + "\n" for item in rounds))
    now = read_progress(store.folder)
    said = [*events(before, now), text_of(status_view(store.folder)), text_of(summary_table(store.folder))]
    said += [json.dumps(round_table(store.config, 1, rounds)), summary(store, rounds)]
    said += [round_message(store.config, 1, rounds), json.dumps(status_json(store.folder))]
    assert charts.draw_charts(store.folder, rounds)["action-error"].is_file()
    return "\n".join(said)


@pytest.mark.parametrize(("unit", "word"), [("rad", "radians"), ("m", "metres"), ("%", "percent")])
def test_every_table_and_key_says_the_unit(store: RunStore, unit: str, word: str) -> None:
    commit(store, 0)
    text = everything(store, (unit, unit))
    assert "deg" not in text.replace("degraded", "")
    assert "0-100" not in text, "the hands are none"
    for part in (
        f"action error 0.0402 {unit}  unseen 0.0523 {unit}",
        f"action error, {unit} [95 %]",
        f"error, {unit}",
        "0.114 -> 0.0731",
        f'"error after, {unit}": "0.0731"',
        f'"95 % interval, {unit}": "[0.0365, 0.146]"',
        f"in {word}",
        f"base, {unit}",
        f"(-0.0412 [-0.0500, -0.0310] {unit})",
        f'"action_error{ENDS[unit]}": 0.0731',
    ):
        assert part in text, part
    assert (
        "elbow | hand" if unit == "m" else "elbow, rad | hand, m" if unit == "rad" else "elbow, % | hand, m"
    ) in text


def test_without_a_unit_none_is_said(store: RunStore) -> None:
    commit(store, 0)
    text = everything(store, (None, None))
    assert not any(word in text for word in ("deg", "rad,", " rad ", "None"))
    assert '"error after": "0.0731"' in text
    assert "action error 0.0402  unseen 0.0523" in text


def test_where_units_differ_each_figure_says_its_own_and_no_mean_is_made(store: RunStore) -> None:
    commit(store, 0)
    text = everything(store, ("rad", "deg"))
    assert "0.114 -> 0.0731 rad" in text
    assert "0.114 -> 0.00731 deg" in text
    assert "action error -" in text
    assert '"error after": "0.00731 deg"' in text
    assert best_round(store.info.config, [line(0, (1, 1), ("rad", "deg"))]) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7.021, "7.02"),
        (0.07312, "0.0731"),
        (12.34, "12.3"),
        (9.999, "10.0"),
        (0, "0.00"),
        (123.4, "123"),
        (12345.6, "12346"),
    ],
)
def test_three_significant_digits_whatever_the_unit(value: float, text: str) -> None:
    assert significant(value) == text
    assert significant(value, "+") == f"+{text}"
    assert in_brackets([value, value]) == f" [{text}, {text}]"


def test_the_axis_has_the_unit_that_all_lines_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[str, dict[str, str | None]]] = []
    real = charts._figure
    monkeypatch.setattr(
        charts, "_figure", lambda *of: (drawn.append((of[1], dict(of[4]))) if "Action" in of[0] else None, real(*of))[1]
    )
    for units in (("rad", "rad"), ("rad", "deg"), (None, None)):
        charts.draw_charts(tmp_path, [line(0, (1.0, 2.0), units)])
    own = {"kitchen": "rad", "workshop": "deg"}
    assert drawn == [("radians", {}), ("", own), ("", {"kitchen": None, "workshop": None})]
