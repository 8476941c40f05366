"""flows.register against a real server: notifications by a block, and deployments that keep what was set in the UI."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prefect import get_client
from prefect.blocks.notifications import SlackWebhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Scheduled
from pydantic import SecretStr

from flows.missed import skip_missed
from flows.register import PRIMARY, register, register_automations
from zk0.errors import BadInputError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning"),  # apprise, under Prefect's blocks
]


@pytest.fixture(scope="module")
def client(prefect_environment: dict[str, str]) -> Iterator[SyncPrefectClient]:
    with temporary_settings({PREFECT_API_URL: prefect_environment["PREFECT_API_URL"]}):
        SlackWebhook(url=SecretStr("https://hooks.example/zk0")).save("team")
        with get_client(sync_client=True) as client:
            yield client


def test_notifications_go_through_the_named_block(client: SyncPrefectClient) -> None:
    register_automations(client, "slack-webhook/team")
    register_automations(client, "slack-webhook/team")  # as a restart does: replaced, not doubled
    block = client.read_block_document_by_name("team", "slack-webhook").id
    ours = [item for item in client.read_automations() if item.name.startswith("zk0")]
    assert len(ours) == 3
    assert {getattr(action, "block_document_id", None) for item in ours for action in item.actions} == {block}


def test_an_unknown_block_is_refused(client: SyncPrefectClient) -> None:
    with pytest.raises(BadInputError, match=r"--notify 'slack-webhook/nobody': no such Prefect block"):
        register_automations(client, "slack-webhook/nobody")


def test_a_deployment_keeps_what_was_set_in_the_ui_until_its_config_changes(
    client: SyncPrefectClient, tmp_path: Path
) -> None:
    assert register(client, "sim", tmp_path) == "zk0"
    deployment = client.read_deployment_by_name(PRIMARY)
    schedule = deployment.schedules[0]
    client.update_deployment_schedule(deployment.id, schedule.id, active=False)
    register(client, "sim", tmp_path)
    assert client.read_deployment_by_name(PRIMARY).schedules[0].active is False
    register(client, "so100", tmp_path / "elsewhere")
    changed = client.read_deployment_by_name(PRIMARY)
    assert changed.parameters["config"] == "so100"
    assert changed.parameters["outputs_dir"] == str(tmp_path / "elsewhere")
    assert changed.schedules[0].active is False, "who paused it did not pause a folder"
    client.update_deployment_schedule(deployment.id, changed.schedules[0].id, active=True)
    client.pause_deployment(deployment.id)
    register(client, "sim", tmp_path)
    changed = client.read_deployment_by_name(PRIMARY)
    assert changed.schedules[0].active is True
    assert changed.paused is True
    client.resume_deployment(deployment.id)


def test_of_the_starts_that_were_missed_the_newest_is_caught_up(client: SyncPrefectClient, tmp_path: Path) -> None:
    register(client, "sim", tmp_path)
    deployment = client.read_deployment_by_name(PRIMARY)
    two_days_ago = datetime.now(UTC) - timedelta(days=2)
    theirs = client.create_flow_run_from_deployment(deployment.id, state=Scheduled(scheduled_time=two_days_ago))
    body = {"start_time": str(datetime.now(UTC) - timedelta(days=3)), "end_time": str(datetime.now(UTC))}
    client.request("POST", "/deployments/{id}/schedule", path_params={"id": deployment.id}, json=body)  # as when away
    assert len(due(client, StateType.SCHEDULED)) == 3
    skip_missed(client, deployment.id)
    skip_missed(client, deployment.id)
    left = due(client, StateType.SCHEDULED)
    assert len(left) == 1
    skipped = due(client, StateType.CANCELLED)
    assert len(skipped) == 2
    assert max(skipped) < min(left)
    assert client.read_flow_run(theirs.id).state_type == StateType.SCHEDULED, "who asked for a start gets it"


def due(client: SyncPrefectClient, state: StateType) -> list[datetime]:
    """When the schedule's starts in that state should have been."""
    return [
        start.expected_start_time
        for start in client.read_flow_runs()
        if start.auto_scheduled
        and start.state_type == state
        and start.expected_start_time is not None
        and start.expected_start_time < datetime.now(UTC)
    ]
