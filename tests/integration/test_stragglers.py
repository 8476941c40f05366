"""Rows of Prefect that nobody would ever end: their process, or the server that was to hear of it, was killed."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, get_client, task
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Crashed, Pending, Running, Scheduled, Suspended

from benchmarks.service import CommandLine
from flows import FLOW, ROUND, closing
from flows.rows import LIVE, RUN_DIR_LABEL

pytestmark = pytest.mark.slow


def nothing() -> None:
    pass


@pytest.fixture
def client(prefect_environment: dict[str, str]) -> Iterator[SyncPrefectClient]:
    with (
        temporary_settings({PREFECT_API_URL: prefect_environment["PREFECT_API_URL"]}),
        get_client(sync_client=True) as found,
    ):
        yield found


def begun(client: SyncPrefectClient, name: str, state: State[Any], **more: Any) -> FlowRun:
    return client.create_flow_run(flow(name=name)(nothing), state=state, **more)


def test_what_is_alive_after_the_end_of_its_flow_run_is_ended(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fit's end is lost with a server that is killed in it, whatever comes of the round."""
    monkeypatch.setattr(closing, "STRAGGLERS_AFTER", timedelta(0))
    parent = begun(client, FLOW, Running())
    step = client.create_task_run(task(name="round")(nothing), parent.id, dynamic_key="0", state=Running())
    orphan = begun(client, ROUND, Running(), parent_task_run_id=step.id)
    tasks = {step.id: StateType.RUNNING}
    ends: list[State[Any] | None] = [Crashed(), Completed(), None]
    for end in ends:
        round_run = begun(client, ROUND, Running(), parent_task_run_id=step.id)
        fit = client.create_task_run(task(name="fit")(nothing), round_run.id, dynamic_key="0", state=Pending())
        if end is not None:
            client.set_flow_run_state(round_run.id, end, force=True)
        tasks[fit.id] = StateType.PENDING if end is None else StateType.CRASHED
    closing.close_left_over(client)
    assert {found: client.read_task_run(found).state_type for found in tasks} == tasks
    assert client.read_flow_run(orphan.id).state_type == StateType.RUNNING, "its parent is under way"

    client.set_flow_run_state(parent.id, Completed(), force=True)
    closing.close_left_over(client)
    assert {client.read_task_run(found).state_type for found in tasks} == {StateType.CRASHED}
    end = client.read_flow_run(orphan.id).state
    assert end is not None
    assert (end.type, end.message) == (StateType.CRASHED, closing.UNTOLD.message)


def test_a_run_that_is_over_closes_what_killed_processes_left_of_it(
    zk0: CommandLine, client: SyncPrefectClient, tmp_path: Path
) -> None:
    """By `zk0 run` alone: nobody else watches."""
    folder = zk0.outputs / "left"
    labels: dict[str, Any] = {RUN_DIR_LABEL: str(folder)}
    left = {}
    alive: list[State[Any]] = [Running(), Pending(), Scheduled(name="AwaitingRetry"), Suspended(timeout_seconds=10**6)]
    for state in alive:
        made = begun(client, FLOW, state, tags=["run:left"])
        client.update_flow_run_labels(made.id, labels)
        left[made.id] = StateType.CRASHED if state.type in LIVE else StateType.CANCELLED
    elsewhere = begun(client, FLOW, Running(), tags=["run:left"])
    client.update_flow_run_labels(elsewhere.id, {RUN_DIR_LABEL: str(tmp_path / "left")})
    zk0.run("run", zk0.config(federation__num_rounds=1, training__steps=1), "--name", "left")
    ended = {found: client.read_flow_run(found).state for found in left}
    assert {found: end and end.type for found, end in ended.items()} == left
    assert all(end is not None and "the run" in (end.message or "") for end in ended.values())
    assert client.read_flow_run(elsewhere.id).state_type == StateType.RUNNING
