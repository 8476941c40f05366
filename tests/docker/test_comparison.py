"""An arm of `zk0 compare` that is one client, trained where the run's clients are."""

from collections.abc import Callable

import pytest
from docker.errors import DockerException

from tests.docker.conftest import Engine
from zk0.config import RunConfig
from zk0.errors import ConfigError
from zk0.executors.choice import own_executor
from zk0.executors.docker import engine
from zk0.executors.process import ProcessExecutor
from zk0.federation.comparison import Arm
from zk0.runs.records import RoundState
from zk0.runs.store import RunStore

pytestmark = [pytest.mark.docker, pytest.mark.slow]


def away() -> None:
    raise DockerException("away")


def test_a_client_alone_is_trained_in_containers(
    docker_host: Engine, docker_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = docker_config(federation__num_rounds=1)
    processes = ProcessExecutor(config.executor)
    store = RunStore.create_or_open(config, "compared")
    initial = processes.run(store.task("init", 0, "server")).tensors
    state = RoundState(server_round=0, arrays=store.place(0, "global", initial))
    store.commit(0, arrays=state.arrays, strategy_tensors={}, strategy_scalars={}, metrics={})

    def evaluations() -> object:
        return Arm(store, "alone-kitchen", "kitchen", own_executor(config, processes)).evaluations()

    found = evaluations()
    (arm,) = (store.folder / "compare").iterdir()
    for client in ("kitchen", "workshop"):
        locks = list((arm / "rounds" / "0001" / "clients" / client).glob("*.lock"))
        assert {lock.read_text().startswith("zk0-alone-kitchen-001-") for lock in locks} == {True}, "no container's"
    assert docker_host.containers() == []

    monkeypatch.setattr(engine, "connect", away)
    assert evaluations() == found, "what is done needs no engine"
    (arm / "rounds" / "0001" / "clients" / "workshop" / "evaluate.json").unlink()
    with pytest.raises(ConfigError, match="no Docker engine answers"):
        evaluations()
