"""What a run shows on its pages in Prefect, as the API gives it."""

import base64
import json
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect

from benchmarks.service import CommandLine
from tests.integration.browser import browser, keep, needs_chromium, sees

pytestmark = pytest.mark.slow


def post(zk0: CommandLine, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = httpx.post(f"{zk0.environment['PREFECT_API_URL']}{path}", json=body, timeout=30, trust_env=False)
    answer.raise_for_status()
    return list(answer.json())


@pytest.fixture(scope="module")
def artifacts(zk0: CommandLine, reference: str) -> dict[str, dict[str, Any]]:
    """Key -> newest artifact of the reference run."""
    found = post(zk0, "/artifacts/latest/filter", {"artifacts": {"key": {"like_": "reference-%"}}, "limit": 200})
    return {item["key"]: item for item in found}


def test_the_progress_reaches_the_end(artifacts: dict[str, dict[str, Any]]) -> None:
    assert artifacts["reference-progress"]["type"] == "progress"
    assert float(artifacts["reference-progress"]["data"]) == 100


def test_every_round_has_a_table(zk0: CommandLine, artifacts: dict[str, dict[str, Any]]) -> None:
    assert {f"reference-round-00{number}" for number in range(3)} <= set(artifacts)
    rows = {row["client"]: row for row in json.loads(artifacts["reference-round-002"]["data"])}
    assert set(rows) == {"kitchen", "workshop"}
    rounds = zk0.metrics("reference")
    row, fit = rows["kitchen"], rounds[2]["train"]["kitchen"]
    assert row["attempts"] == 1
    assert row["examples"] == fit["num_examples"]
    assert float(row["training loss"]) == pytest.approx(fit["loss"], abs=1e-4)
    for column, number in (("action error before, deg", 1), ("action error after, deg", 2)):
        expected = rounds[number]["evaluate"]["kitchen"]["action_error_deg"]
        assert float(row[column]) == pytest.approx(expected, abs=0.01)
    assert float(row["peak RAM, MiB"]) > 100
    assert float(row["sent, MiB"]) > 0


def test_the_charts_are_pictures_and_lie_in_the_run_directory(
    zk0: CommandLine, artifacts: dict[str, dict[str, Any]]
) -> None:
    for name in ("action-error", "held-out-loss", "training-loss", "peak-memory", "joints-kitchen"):
        artifact = artifacts[f"reference-{name}"]
        head, _, data = artifact["data"].partition(",")
        assert (artifact["type"], head) == ("image", "data:image/png;base64")
        picture = base64.b64decode(data)
        assert picture.startswith(b"\x89PNG")
        assert (zk0.outputs / "reference" / "charts" / f"{name}.png").read_bytes() == picture


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
    tasks = post(zk0, "/task_runs/filter", {"limit": 200})
    assert {"fit-002-kitchen", "evaluate-002-kitchen", "show-002"} <= {item["name"] for item in tasks}
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
    with browser() as page:
        sees(page, f"{site}/runs/flow-run/{flows['reference']}", "run:reference", "federated-training", picture="run")
        page.get_by_text("Subflow Runs").first.click()
        for name in ("round-000", "round-001", "round-002"):
            expect(page.get_by_text(name).first).to_be_visible()
        keep(page, "rounds")
        sees(page, f"{site}/artifacts", "reference-round-002", "reference-action-error", picture="artifacts")
        sees(page, details["reference-round-002"], "peak RAM, MiB", "kitchen", picture="round-table")
        page.goto(details["reference-action-error"])
        chart = page.locator("img[src^='data:image/png;base64']").first
        expect(chart).to_be_visible()
        assert chart.evaluate("image => image.naturalWidth") > 300
        keep(page, "chart")
        sees(page, details["reference-summary"], "workshop", picture="summary")
