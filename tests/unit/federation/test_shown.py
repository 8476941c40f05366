"""What shows the rounds neither ends a run nor holds it up, and a run that goes on trains first."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.unit.runs.test_origin import config_of
from zk0.errors import QuorumError
from zk0.federation import steps
from zk0.federation.round import federate
from zk0.federation.steps import Steps
from zk0.runs.records import RoundState
from zk0.runs.store import RunStore
from zk0.work.records import ArtifactRef

PATIENCE_S = 5


def state(server_round: int) -> RoundState:
    return RoundState(server_round=server_round, arrays=ArtifactRef(path="x", sha256="x", size=1))


class Watched(Steps):
    """Rounds that are made at once; says what happened in order."""

    def __init__(self, store: RunStore, begun: int | None = None, fails: int | None = None) -> None:
        super().__init__(store)
        self.begun, self.fails = begun, fails
        self.story: list[str] = []
        self.may_draw = threading.Event()

    def resume_point(self) -> RoundState | None:
        return None if self.begun is None else state(self.begun)

    def one_round(self, make: Any, server_round: int, before: RoundState | None) -> RoundState:
        def scripted(*_: object) -> RoundState:
            self.story.append(f"trained {server_round}")
            if server_round == self.fails:
                raise QuorumError("too few")
            return state(server_round)

        return super().one_round(scripted, server_round, before)

    def draw(self, server_round: int) -> None:
        self.may_draw.wait(PATIENCE_S)
        self.story.append(f"drawn {server_round}")
        if server_round == 0:
            raise ValueError("no such font")


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore.create_or_open(config_of(tmp_path, federation__num_rounds=3), "shown")


def test_a_run_that_goes_on_trains_before_it_shows(store: RunStore) -> None:
    run = Watched(store, begun=1)
    run.may_draw.set()
    federate(run)
    assert run.story.index("trained 2") < min(run.story.index(text) for text in run.story if text.startswith("drawn"))
    assert run.story[-1] == "drawn 3"
    assert not {"drawn 0", "drawn 1"} & set(run.story)


def test_the_newest_counts_and_a_fault_is_said(store: RunStore, told: list[str]) -> None:
    run = Watched(store)
    threading.Timer(0.3, run.may_draw.set).start()
    federate(run)
    assert run.story[:4] == ["trained 0", "trained 1", "trained 2", "trained 3"], "no round waits for a picture"
    assert run.story[4:] == ["drawn 0", "drawn 3"]
    assert any("round 0 is not shown: ValueError: no such font" in line for line in told)


def test_pictures_that_hang_are_left(store: RunStore, told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "SHOWN_WITHIN_S", 0.2)
    run, started = Watched(store), time.monotonic()
    federate(run)
    assert time.monotonic() - started < PATIENCE_S
    assert any("without its last charts" in line for line in told)
    run.may_draw.set()


def test_what_a_failed_run_came_to_is_shown(store: RunStore) -> None:
    run = Watched(store, fails=2)
    threading.Timer(0.3, run.may_draw.set).start()
    with pytest.raises(QuorumError):
        federate(run)
    assert run.story[-1] == "drawn 1"
