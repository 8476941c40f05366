"""What a run shows on its pages in Prefect, as the API gives it."""

import base64
import io
import json
from typing import Any

import httpx
import pytest
from PIL import Image
from playwright.sync_api import expect

from benchmarks.service import CommandLine
from tests.integration.browser import WIDTHS, browser, keep, needs_chromium, sees
from tests.integration.conftest import CANARY

pytestmark = pytest.mark.slow


def post(zk0: CommandLine, path: str, body: dict[str, Any]) -> Any:
    answer = httpx.post(f"{zk0.environment['PREFECT_API_URL']}{path}", json=body, timeout=30, trust_env=False)
    answer.raise_for_status()
    return answer.json()


@pytest.fixture(scope="module")
def artifacts(zk0: CommandLine, reference: str) -> dict[str, dict[str, Any]]:
    """Key -> newest artifact of the reference run."""
    found = post(zk0, "/artifacts/latest/filter", {"artifacts": {"key": {"like_": "reference-%"}}, "limit": 200})
    return {item["key"]: item for item in found}


def test_there_are_four_of_one_version_and_no_picture_twice(
    zk0: CommandLine, artifacts: dict[str, dict[str, Any]]
) -> None:
    kinds = {"progress": "progress", "round": "table", "charts": "image", "summary": "markdown"}
    assert {key: item["type"] for key, item in artifacts.items()} == {
        f"reference-{name}": kind for name, kind in kinds.items()
    }
    (flow_run,) = post(zk0, "/flow_runs/filter", {"flow_runs": {"name": {"any_": ["reference"]}}})
    every = post(zk0, "/artifacts/filter", {"artifacts": {"key": {"like_": "reference-%"}}})
    assert [item["flow_run_id"] for item in every] == [flow_run["id"]] * len(kinds)
    assert {item["task_run_id"] for item in every} == {None}, "they would be labels on the timeline's bars"
    assert float(artifacts["reference-progress"]["data"]) == 100
    (picture,) = (item["data"] for item in every if item["type"] == "image")
    events = post(zk0, "/events/filter", {"filter": {"event": {"prefix": ["prefect.artifact"]}}, "limit": 50})
    assert events["events"]
    assert picture not in json.dumps(events)


def test_a_token_is_in_nothing_that_a_run_writes_or_says(
    zk0: CommandLine, reference: str, artifacts: dict[str, dict[str, Any]]
) -> None:
    (flow_run,) = post(zk0, "/flow_runs/filter", {"flow_runs": {"name": {"any_": ["reference"]}}})
    logs = post(zk0, "/logs/filter", {"logs": {"flow_run_id": {"any_": [flow_run["id"]]}}})
    said = json.dumps([flow_run, logs, artifacts]) + reference + zk0.run("report", "reference") + zk0.run("status")
    assert CANARY not in said
    files = [path for path in (zk0.outputs / "reference").rglob("*") if path.is_file()]
    assert len(files) > 20
    assert [path for path in files if CANARY.encode() in path.read_bytes()] == []


def test_the_table_begins_with_what_came_of_the_newest_round(
    zk0: CommandLine, artifacts: dict[str, dict[str, Any]]
) -> None:
    rows = {row["client"]: row for row in json.loads(artifacts["reference-round"]["data"])}
    assert set(rows) == {"kitchen", "workshop"}
    rounds = zk0.metrics("reference")
    row, fit = rows["kitchen"], rounds[2]["train"]["kitchen"]
    first = ["client", "error before, deg", "error after, deg", "change, deg", "success", "attempts"]
    assert list(row)[: len(first)] == first
    errors = [rounds[number]["evaluate"]["kitchen"]["action_error_deg"] for number in (1, 2)]
    assert [float(row[column]) for column in first[1:4]] == pytest.approx(
        [*errors, errors[1] - errors[0]], rel=0.01, abs=0.01
    )
    assert row["attempts"] == 1
    assert row["examples"] == fit["num_examples"]
    assert float(row["training loss"]) == pytest.approx(fit["loss"], abs=1e-4)
    assert float(row["peak RAM, MiB"]) > 100
    assert float(row["sent, MiB"]) > 0


def test_the_sheet_has_the_charts_of_the_run_directory(zk0: CommandLine, artifacts: dict[str, dict[str, Any]]) -> None:
    head, _, data = artifacts["reference-charts"]["data"].partition(",")
    assert head == "data:image/png;base64"
    charts = {path.stem for path in (zk0.outputs / "reference" / "charts").glob("*.png")}
    assert {"action-error", "held-out-loss", "training-loss", "peak-memory", "joints-kitchen"} <= charts
    picture = base64.b64decode(data)
    assert len(picture) < 200_000
    with Image.open(io.BytesIO(picture)) as sheet:
        assert sheet.height > len(charts) * 300


def test_every_round_has_intervals_and_its_change_since_round_0(zk0: CommandLine, reference: str) -> None:
    for line in zk0.metrics("reference"):
        low, high = line["summary"]["interval_95"]["action_error_deg"]
        assert low <= line["summary"]["action_error_deg"] <= high
        if line["server_round"]:
            change = line["change"]["clients"]["action_error_deg"]
            base = zk0.metrics("reference")[0]["summary"]["action_error_deg"]
            assert change["mean"] == pytest.approx(line["summary"]["action_error_deg"] - base)
            assert change["interval_95"][0] <= change["mean"] <= change["interval_95"][1]


def test_the_summary_has_the_base_beside_the_newest_round(
    zk0: CommandLine, artifacts: dict[str, dict[str, Any]]
) -> None:
    text = artifacts["reference-summary"]["data"]
    base, newest = (zk0.metrics("reference")[index]["evaluate"]["workshop"]["action_error_deg"] for index in (0, 2))
    row = next(line for line in text.splitlines() if line.startswith("| workshop |"))
    cells = [cell.strip() for cell in row.split("|")[2:4]]
    assert [cell.split(" ")[0] for cell in cells] == [f"{base:.2f}", f"{newest:.2f}"]
    assert all(cell.endswith("]") for cell in cells), "each with its interval"
    assert "## By joint" in text
    assert str(zk0.outputs / "reference" / "run.log") in text


def test_flow_runs_are_tagged_by_run_and_round_and_task_runs_not_at_all(zk0: CommandLine, reference: str) -> None:
    """Every new set of tags of a task run costs about 2 s before it begins."""
    flows = {item["name"]: set(item["tags"]) for item in post(zk0, "/flow_runs/filter", {"limit": 200})}
    assert "run:reference" in flows["reference"]
    rounds = post(zk0, "/flow_runs/filter", {"flow_runs": {"tags": {"all_": ["run:reference", "round:1"]}}})
    assert [item["name"] for item in rounds] == ["round-001"]
    assert "committed, action error" in rounds[0]["state"]["message"]
    tasks = post(zk0, "/task_runs/filter", {"limit": 200})
    assert {"fit-002-kitchen", "evaluate-002-kitchen"} <= {item["name"] for item in tasks}
    assert [item["name"] for item in tasks if item["tags"]] == []


def test_failed_attempts_and_a_client_that_sat_out_are_visible(zk0: CommandLine) -> None:
    """A client whose training always takes too long: tried twice, then the round goes on without it."""
    config = zk0.config(
        federation__num_rounds=1,
        federation__min_train_clients=1,
        training__steps=400,
        executor__timeout_s=6,
        executor__max_retries=1,
    )
    folder = zk0.outputs / "sat-out" / "rounds" / "0001" / "clients"
    zk0.run("run", config, "--name", "sat-out", exit_code=3)
    attempts = (folder / "kitchen" / "attempts.jsonl").read_text().splitlines()
    assert len(attempts) == 2
    assert all('"cause": "timeout"' in line for line in attempts)


@needs_chromium
def test_a_person_finds_rounds_tables_and_charts(zk0: CommandLine, artifacts: dict[str, dict[str, Any]]) -> None:
    site = zk0.environment["PREFECT_API_URL"].removesuffix("/api")
    flows = {item["name"]: item["id"] for item in post(zk0, "/flow_runs/filter", {"limit": 200})}
    details = {key: f"{site}/artifacts/artifact/{item['latest_id']}" for key, item in artifacts.items()}
    for width in WIDTHS:
        with browser(width) as page:
            run = f"{site}/runs/flow-run/{flows['reference']}"
            sees(page, run, "run:reference", "federated-training", picture=f"run-{width}")
            if width == WIDTHS[0]:
                page.get_by_text("Subflow Runs").first.click()
                for name in ("round-000", "round-001", "round-002"):
                    expect(page.get_by_text(name).first).to_be_visible()
                keep(page, f"rounds-{width}")
            sees(page, f"{site}/artifacts", *artifacts, picture=f"artifacts-{width}")
            sees(page, details["reference-round"], "error before, deg", "kitchen", picture=f"round-table-{width}")
            sees(page, details["reference-summary"], "workshop", picture=f"summary-{width}")
            page.goto(details["reference-charts"])
            chart = page.locator("img[src^='data:image/png;base64']").first
            expect(chart).to_be_visible()
            assert chart.bounding_box()["width"] <= width
            keep(page, f"charts-{width}")
