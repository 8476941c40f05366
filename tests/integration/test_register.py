"""flows.register against a real server: notifications by a block, and deployments that keep what was set in the UI."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect import get_client
from prefect.blocks.notifications import SlackWebhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

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
    register(client, "so100", tmp_path)
    changed = client.read_deployment_by_name(PRIMARY)
    assert changed.parameters["config"] == "so100"
    assert changed.schedules[0].active is True
