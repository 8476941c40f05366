"""Flow runs before they have a run, in the queue, without a parent, and of versions before: against a real server."""

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prefect import flow, get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import Abort, Pause
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Running, Scheduled, Suspended

from flows import ROUND, early, older, will
from flows.closing import close_left_over
from flows.federated_training import federated_training
from flows.queue import COMES_BACK, SOON, WAITS
from flows.register import PRIMARY, register
from flows.rows import RUN_DIR_LABEL
from flows.turn import WAITS_HERE, _let_first, own_turn
from flows.will import LOOK_S
from tests.unit.runs.test_origin import config_of
from zk0.errors import ClientError
from zk0.runs.store import RunStore
from zk0.runs.turn import Turn
from zk0.work.executor import STOPPED

pytestmark = pytest.mark.slow
PATIENCE_S = 60


@pytest.fixture(scope="module")
def client(prefect_environment: dict[str, str]) -> Iterator[SyncPrefectClient]:
    with (
        temporary_settings({PREFECT_API_URL: prefect_environment["PREFECT_API_URL"]}),
        get_client(sync_client=True) as client,
    ):
        yield client


@pytest.fixture
def flow_run(client: SyncPrefectClient, tmp_path: Path) -> FlowRun:
    register(client, "sim", tmp_path)
    return client.create_flow_run_from_deployment(client.read_deployment_by_name(PRIMARY).id, state=Running())


def test_a_deletion_is_heard_before_there_is_a_run(client: SyncPrefectClient, flow_run: FlowRun) -> None:
    def deleted() -> None:
        client.delete_flow_run(flow_run.id)
        time.sleep(PATIENCE_S)

    with pytest.raises(Abort, match="deleted before there was a run"), early.heard(flow_run):
        deleted()


def test_a_suspension_is_heard_too_and_prefect_does_not_fail_it(client: SyncPrefectClient, flow_run: FlowRun) -> None:
    def suspended() -> None:
        client.set_flow_run_state(flow_run.id, Suspended(timeout_seconds=300), force=True)
        time.sleep(PATIENCE_S)

    with pytest.raises(Pause), early.heard(flow_run):
        suspended()
    state = client.read_flow_run(flow_run.id).state
    assert state.type == StateType.PAUSED
    assert state.state_details.pause_timeout.year > 2030


def test_a_run_hears_by_itself_afterwards(client: SyncPrefectClient, flow_run: FlowRun) -> None:
    with early.heard(flow_run) as enough:
        enough()
        client.delete_flow_run(flow_run.id)
        time.sleep(3 * LOOK_S)


def test_what_fails_because_a_person_ended_the_run_is_their_end(
    client: SyncPrefectClient, flow_run: FlowRun, tmp_path: Path
) -> None:
    """A step that no client does, such as the export, whose process is ended with the rest: no failure of the run."""
    store = RunStore.create_or_open(config_of(tmp_path), "suspended")

    def export() -> None:
        client.set_flow_run_state(flow_run.id, Suspended(timeout_seconds=300), force=True)
        deadline = time.monotonic() + PATIENCE_S
        while store.stopped is None:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        raise ClientError("lost", "no process can be started")

    with pytest.raises(Pause) as end, will.heard(store, flow_run):
        export()
    STOPPED.clear()
    assert isinstance(end.value.__cause__, ClientError)
    state = client.read_flow_run(flow_run.id).state
    assert state.type == StateType.PAUSED
    assert state.state_details.pause_timeout.year > 2030


def test_what_fails_by_itself_stays_a_failure(flow_run: FlowRun, tmp_path: Path) -> None:
    store = RunStore.create_or_open(config_of(tmp_path), "fails")
    with pytest.raises(ClientError), will.heard(store, flow_run):
        raise ClientError("lost", "no process can be started")


def test_who_waits_in_its_process_says_so(client: SyncPrefectClient, flow_run: FlowRun, tmp_path: Path) -> None:
    """Prefect lets a second one begin after a cancel, for it counts wrong, and shows both as Running."""
    other = Turn(tmp_path)
    assert other.take()
    before, seen = set(flow_run.tags), set[str]()

    def let_go() -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not seen and time.monotonic() < deadline:
            seen.update({*client.read_flow_run(flow_run.id).tags} - before)
            time.sleep(0.1)
        other.__exit__()

    waiting = threading.Thread(target=let_go)
    waiting.start()
    with own_turn(flow_run, str(tmp_path)):
        waiting.join()
        assert seen == {WAITS_HERE}
        assert set(client.read_flow_run(flow_run.id).tags) == before


def test_who_gives_way_does_not_take_the_place_of_who_was_killed(client: SyncPrefectClient, flow_run: FlowRun) -> None:
    in_five_minutes = datetime.now(UTC) + timedelta(minutes=5)
    killed = client.create_flow_run_from_deployment(
        flow_run.deployment_id, state=Scheduled(name=WAITS, scheduled_time=in_five_minutes)
    )
    with pytest.raises(Abort):
        _let_first(str(killed.id), flow_run)
    first, second = (client.read_flow_run(known.id).state for known in (killed, flow_run))
    assert (first.name, second.name) == (COMES_BACK, WAITS)
    assert first.state_details.scheduled_time <= datetime.now(UTC)
    assert second.state_details.scheduled_time > datetime.now(UTC) + SOON


def test_a_round_whose_parent_was_deleted_is_closed(client: SyncPrefectClient) -> None:
    def nothing() -> None:
        pass

    orphan = client.create_flow_run(flow(name=ROUND)(nothing), state=Running())
    close_left_over(client)
    assert client.read_flow_run(orphan.id).state_type == StateType.CANCELLED


@pytest.mark.parametrize(("name", "label"), [("mine", None), ("mine", "/runs/mine"), (None, None)])
def test_a_flow_run_of_an_earlier_version_goes_on(
    client: SyncPrefectClient, flow_run: FlowRun, monkeypatch: pytest.MonkeyPatch, name: str | None, label: str | None
) -> None:
    parameters = {"config": "so100", "overrides": ["training.steps=3"]}
    client.update_flow_run(flow_run.id, parameters=parameters | {"name": name}, name="page")
    if label:
        client.update_flow_run_labels(flow_run.id, {RUN_DIR_LABEL: label})
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", str(flow_run.id))
    older.bring_up_to_date(federated_training)
    found = client.read_flow_run(flow_run.id)
    assert found.parameters == parameters
    assert found.name == (name if name and not label else "page")
