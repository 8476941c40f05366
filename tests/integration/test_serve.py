"""`zk0 serve`: deployment, schedule, one run at a time, and who may speak to it."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from prefect import flow, get_client
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Crashed, Pending

from benchmarks.service import CommandLine, ServedCommandLine, state_of
from flows import FLOW
from flows.history import History
from flows.rows import RUN_DIR_LABEL
from tests.integration.browser import browser, needs_chromium, sees

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedCommandLine]:
    service = ServedCommandLine(tmp_path_factory.mktemp("serve"))
    service.serve(service.config(training__steps=4))
    yield service
    service.close()


def test_the_deployment_has_a_schedule_a_form_and_a_limit(served: ServedCommandLine) -> None:
    deployment = httpx.get(f"{served.api}/deployments/{served.nightly()}", timeout=30, trust_env=False).json()
    assert deployment["schedules"][0]["schedule"]["cron"] == "0 2 * * *"
    properties = deployment["parameter_openapi_schema"]["properties"]
    assert set(properties) == {"config", "overrides", "continue_from", "outputs_dir"}
    assert "TOML" in properties["config"]["description"]
    assert deployment["global_concurrency_limit"]["limit"] == 1
    assert deployment["concurrency_options"]["collision_strategy"] == "ENQUEUE"


@needs_chromium
def test_a_person_finds_the_form(served: ServedCommandLine) -> None:
    site = served.api.removesuffix("/api")
    with browser() as page:
        words = ("overrides", "the directory of a run that is to go on")
        sees(page, f"{site}/deployments/deployment/{served.nightly()}/run", *words, picture="form")
        values = page.locator("input, textarea").evaluate_all("fields => fields.map(field => field.value)")
        assert "latest" in values
        assert str(served.outputs) in values


def test_notifications_are_registered_and_nothing_else(served: ServedCommandLine) -> None:
    automations = served.post("/automations/filter", {})
    ours = [item for item in automations if item["name"].startswith("zk0")]
    assert len(ours) == 3
    assert {action["type"] for item in ours for action in item["actions"]} == {"do-nothing"}


def test_a_start_while_a_run_is_under_way_waits_and_then_starts_the_next(served: ServedCommandLine) -> None:
    command = [sys.executable, "-m", "prefect", "deployment", "run", "federated-training/nightly"]
    environment = {**served.environment, "PREFECT_API_URL": served.api}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    served.until(lambda: list(served.outputs.glob("*/rounds/0000/manifest.json")), 240)
    second = served.start_nightly()
    served.until(lambda: state_of(served.flow_run(second)) == "AwaitingConcurrencySlot", 60)
    assert len(list(served.outputs.glob("*/run.json"))) == 1
    served.until(lambda: len(list(served.outputs.glob("*/rounds/0000/manifest.json"))) == 2, 400)
    asked = [item["name"] for item in served.states(second)]
    assert asked.count("AwaitingConcurrencySlot") <= 3, "it asks seldom, and is told when its turn has come"
    first_run, second_run = sorted(path.parent.name for path in served.outputs.glob("*/run.json"))
    assert {item["name"]: state_of(item) for item in served.flow_runs()} == {
        first_run: "Completed",
        second_run: "Running",
    }
    # The second one began where the first one ended.
    assert served.digest(second_run, 0) == served.digest(first_run, 2)


def test_what_ended_long_ago_is_forgotten_but_for_runs_that_may_go_on(served: ServedCommandLine) -> None:
    """Rounds, logs and artifacts with it; the run directories stay."""
    first, second = sorted(path.parent for path in served.outputs.glob("*/run.json"))
    artifacts = {"artifacts": {"key": {"like_": f"{first.name}%"}}}
    assert served.post("/artifacts/filter", artifacts)
    rounds = {"flow_runs": {"tags": {"all_": [f"run:{first.name}"]}}}
    assert len(served.post("/flow_runs/filter", rounds)) == 1 + 3
    with temporary_settings({PREFECT_API_URL: served.api}), get_client(sync_client=True) as client:
        rests = client.create_flow_run(flow(name=FLOW)(lambda: None), name="rests", state=Pending())
        client.update_flow_run_labels(rests.id, {RUN_DIR_LABEL: str(second)})
        crashed: State[Any] = Crashed()
        client.set_flow_run_state(rests.id, crashed, force=True)
        assert History(timedelta(0)).prune(client) == History(timedelta(hours=1)).prune(client) == 0
        history = History(timedelta(milliseconds=1))
        assert history.prune(client) == 1
        history.next_look = 0
        assert history.prune(client) == 0
        client.delete_flow_run(rests.id)
    assert [item["name"] for item in served.flow_runs()] == [second.name]
    assert served.post("/flow_runs/filter", rounds) == []
    assert served.post("/artifacts/filter", artifacts) == []
    assert (first / "final").is_dir()


def test_a_second_serve_is_refused(served: ServedCommandLine) -> None:
    output = served.run("serve", exit_code=2)
    assert "runs already" in output


@pytest.mark.parametrize(
    ("arguments", "said"), [(("--host", "0.0.0.0"), "--auth"), (("--auth", "secret"), "user:password")]
)
def test_an_open_door_is_refused(zk0: CommandLine, arguments: tuple[str, ...], said: str) -> None:
    assert said in zk0.run("serve", *arguments, exit_code=2)


def test_with_auth_only_who_knows_the_password_is_heard(tmp_path_factory: pytest.TempPathFactory) -> None:
    guarded = ServedCommandLine(tmp_path_factory.mktemp("guarded"))
    guarded.environment["ZK0_AUTH"] = "me:secret"
    try:
        process = guarded.start("serve", "--outputs", guarded.outputs)
        guarded.until((guarded.folder / "prefect" / "zk0-worker.log").is_file, 240)
        url = f"{guarded.api}/deployments/name/federated-training/nightly"
        assert httpx.get(url, trust_env=False).status_code == 401
        assert httpx.get(url, auth=("me", "secret"), trust_env=False).status_code == 200
        unsigned = httpx.post(f"{guarded.api}/flow_runs/filter", auth=("me", "secret"), json={}, trust_env=False)
        assert unsigned.status_code == 403, "a request without a CSRF token"
        process.terminate()
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        assert guarded.processes() == []
    finally:
        guarded.close()
