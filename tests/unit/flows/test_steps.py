"""A client's work as a Prefect task: who decides on another attempt, and when it begins."""

import threading
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import State
from prefect.states import Failed

from tasks.client import fit
from tasks.step import patient
from tests.unit.runs.test_origin import config_of
from zk0.errors import ClientError
from zk0.federation import steps


def test_an_attempt_is_prefects_and_the_pause_before_it_ends_with_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect's own pause cannot be ended: a suspended flow would keep its turn, for up to a day."""
    monkeypatch.setattr(steps, "STOPPED", stopped := threading.Event())
    tried = patient(fit, config_of(tmp_path, executor__max_retries=4, executor__retry_delay_s=0.01))
    assert (tried.retries, tried.retry_delay_seconds or 0) == (4, 0)
    lost: State[Any] = Failed(data=ClientError("lost", "as told"))
    bad: State[Any] = Failed(data=ClientError("bad_data", "as told"))
    assert [tried.retry_condition_fn(tried, None, state) for state in (lost, bad)] == [True, False]
    tried = patient(fit, config_of(tmp_path, executor__retry_delay_s=3600))
    threading.Timer(0.2, stopped.set).start()
    assert not tried.retry_condition_fn(tried, None, lost)
