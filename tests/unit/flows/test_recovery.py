"""flows.recovery: how long it waits, and what it never tries again."""

import asyncio
import errno
from pathlib import Path
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.states import exception_to_failed_state

from flows.recovery import pause_before
from flows.rows import NEVER_PASSES, RUN_DIR_LABEL, is_out_of_reach, never_passes
from tests.unit.runs.test_hiccups import failing
from tests.unit.runs.test_origin import committed, config_of
from zk0.errors import (
    ClientError,
    ConfigError,
    DatasetError,
    HopelessError,
    PassingError,
    QuorumError,
    StorageError,
    UnforeseenError,
    UnforeseenInputError,
)


def test_the_pause_grows_and_is_bounded() -> None:
    assert [pause_before(attempt) for attempt in range(1, 6)] == [0, 10, 30, 90, 270]
    assert pause_before(30) == 900


def test_wrong_input_is_never_tried_again() -> None:
    assert {
        *("BadInputError", "ConfigError", "DatasetError", "PolicyError", "RunNameError"),
        *("UnforeseenError", "UnforeseenInputError", "HopelessError", "QuarantineError"),
        *("AbsentClientsError", "DivergedError", "RefusedError"),
    } == NEVER_PASSES


@pytest.mark.parametrize(
    ("error", "never"),
    [
        (DatasetError("dataset 'a': odd"), True),
        (ConfigError("policy.path: x"), True),
        (UnforeseenInputError("KeyError: 'names' (in lerobot/datasets/utils.py:3)"), True),
        (UnforeseenError("TypeError: x"), True),
        (HopelessError("bad_data", "init of 'a': nan"), True),
        (PassingError("ConnectError: no route"), False),
        (ClientError("lost", "fit of 'a': FooConfigError: of a library"), False),
        (ClientError("error", "fit of 'a': it encountered an exception: ConfigError: of a library"), False),
        (QuorumError("1 of 2"), False),
        (StorageError("No space left"), False),
        (RuntimeError("DatasetError: x"), False),
    ],
    ids=lambda item: repr(item)[:40],
)
@pytest.mark.parametrize("before", ["", "Flow run encountered an exception:"])
def test_the_class_of_an_error_decides_not_its_words(error: Exception, never: bool, before: str) -> None:
    state = asyncio.run(exception_to_failed_state(error, message=before))
    assert never_passes(state.message) is never
    assert str(error) in (state.message or "")


def test_a_run_whose_disk_does_not_answer_is_let_be_until_it_does(tmp_path: Path) -> None:
    """Nobody knows whether a person stopped it; a damaged mark, and a run that is gone, are known."""
    store = committed(config_of(tmp_path), "run", 0)
    flow_run = FlowRun(id=uuid4(), flow_id=uuid4(), labels={RUN_DIR_LABEL: str(store.folder)})
    assert not is_out_of_reach(flow_run)
    store.mark_stopped("cancelled")
    for name in ("run.json", "stopped"):
        with failing(errno.ESTALE, name):
            assert is_out_of_reach(flow_run)
    (store.folder / "stopped").write_text("{")
    assert not is_out_of_reach(flow_run)
    store.folder.rename(tmp_path / "moved")
    assert not is_out_of_reach(flow_run)
    assert not is_out_of_reach(flow_run.model_copy(update={"labels": {}}))
