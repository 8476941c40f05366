"""Task runs that Prefect hears of after their flow run was set to Crashed: nobody else would ever end them."""

from datetime import timedelta

import pytest
from prefect import flow, get_client, task
from prefect.client.schemas.objects import State, StateType
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Crashed, Pending

from flows import ROUND, recovery

pytestmark = pytest.mark.slow


def nothing() -> None:
    pass


def test_a_task_run_of_a_crashed_round_is_ended(
    prefect_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "STRAGGLERS_AFTER", timedelta(0))
    work = task(name="fit")(nothing)
    with (
        temporary_settings({PREFECT_API_URL: prefect_environment["PREFECT_API_URL"]}),
        get_client(sync_client=True) as client,
    ):
        states = {}
        ends: tuple[State[None], ...] = (Crashed(message="killed"), Completed())
        for end in ends:
            round_run = client.create_flow_run(flow(name=ROUND)(nothing), state=Pending())
            left = client.create_task_run(work, round_run.id, dynamic_key="0", state=Pending())
            client.set_flow_run_state(round_run.id, end, force=True)
            states[end.type] = left.id
        recovery._crash_stragglers(client)
        found = {kind: client.read_task_run(left).state_type for kind, left in states.items()}
    assert found == {StateType.CRASHED: StateType.CRASHED, StateType.COMPLETED: StateType.PENDING}
