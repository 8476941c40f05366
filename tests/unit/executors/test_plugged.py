"""An executor that is not of zk0: how it is found, and what it is held to."""

import fcntl
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.foreign import installed
from zk0.config import RunConfig
from zk0.errors import ClientError, ConfigError, StorageError
from zk0.executors import calls, choice
from zk0.executors.choice import check_clients, executor_of, make_executor, own_executor, stop_work
from zk0.executors.plugged import GROUP, Plugged, plugged
from zk0.executors.process import ProcessExecutor
from zk0.preflight.records import Preflight
from zk0.runs.store import RunStore
from zk0.work.executor import STOPPED
from zk0.work.lock import lock_path
from zk0.work.records import ClientTask
from zk0.work.results import write_result

MakeConfig = Callable[..., RunConfig]
MODULE = """
from zk0.errors import ConfigError

class Bare:
    def __init__(self, config):
        pass
    def run(self, task):
        raise ArithmeticError("of its own")

def raising(config):
    raise KeyError("queue")

def refusing(config):
    raise ConfigError("executor.options.queue: missing; name one")

def nothing(config):
    return None
"""
POINTS = {"bare": "made:Bare", "raising": "made:raising", "refusing": "made:refusing", "nothing": "made:nothing"}
POINTS |= {"missing": "made:Missing", "gone": "nowhere.at:all"}


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "made.py").write_text(MODULE)
    for name, points in (("first", POINTS | {"twice": "made:Bare"}), ("second", {"twice": "made:nothing"})):
        information = tmp_path / f"{name}-1.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        lines = [f"{key} = {value}" for key, value in points.items()]
        (information / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *lines]))
    for folder in [*installed(tmp_path / "installed"), tmp_path]:
        monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(calls, "preflight", None)  # it would need a process; what is refused needs none
    STOPPED.clear()


def done(task: ClientTask) -> Any:
    return write_result(task, tensors=None, num_examples=1, metrics={}, duration_s=1, peak_rss_bytes=1)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("slurm", ["no such executor", "'bare', 'docker', 'gone',", "'subprocesses'", "entry point of the group"]),
        ("twice", ["made:Bare and made:nothing are both of that name"]),
        ("gone", ["nowhere.at:all cannot be made", "No module named 'nowhere'"]),
        ("missing", ["made:Missing cannot be made", "AttributeError"]),
        ("raising", ["made:raising cannot be made (KeyError: 'queue')", "executor.options"]),
        ("nothing", ["gives no executor, which has run(task)"]),
    ],
)
def test_what_is_refused_before_a_run(small_config: MakeConfig, kind: str, words: list[str]) -> None:
    with pytest.raises(ConfigError, match=rf"^executor\.kind = '{kind}'") as caught:
        check_clients(small_config(executor__kind=kind))
    for word in words:
        assert word in str(caught.value)


def test_its_own_words_are_kept(small_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"^executor\.options\.queue: missing; name one$"):
        check_clients(small_config(executor__kind="refusing"))
    with pytest.raises(ConfigError, match=r"^executor\.options\.plces: unknown; subprocesses knows places"):
        check_clients(small_config(executor__kind="subprocesses", executor__options={"plces": 2}))


@pytest.mark.parametrize("kind", ["process", "docker"])
def test_zk0s_own_have_no_options(small_config: MakeConfig, kind: str) -> None:
    with pytest.raises(ConfigError, match=rf"executor\.options = .*'{kind}' reads none"):
        check_clients(small_config(executor__kind=kind, executor__options={"places": 2}))


@pytest.mark.parametrize(("max_parallel", "places"), [(None, 3), (2, 2)])
def test_it_says_how_many_may_be_at_work(
    small_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, max_parallel: int | None, places: int
) -> None:
    changes: dict[str, Any] = {"executor__options": {"places": 3}, "executor__max_parallel": max_parallel}
    config = small_config(executor__kind="subprocesses", **changes)
    found = Preflight(config=config, frames={}, exchanged_bytes=1)
    monkeypatch.setattr(choice, "_preflight", lambda *_: found)  # it would need processes
    assert check_clients(config).config.executor.places == places


def test_it_is_made_once_for_a_run_and_rollouts_stay_here(small_config: MakeConfig) -> None:
    config = small_config(executor__kind="subprocesses")
    store = RunStore.create_or_open(config, "a-run")
    work = store.task("init", 0, "server")
    assert make_executor(work, config) is make_executor(work, RunStore.open(store.folder).config)
    assert isinstance(make_executor(work, config), Plugged)
    assert isinstance(make_executor(store.task("rollout", 0, "bench"), config), ProcessExecutor)
    assert executor_of(small_config(executor__kind="subprocesses", seed=8)) is not executor_of(config)


class Fake:
    """Does what it is told."""

    def __init__(self, does: Callable[[ClientTask], Any]) -> None:
        self.does = does
        self.asked = 0
        self.stopped: list[str] = []

    def run(self, task: ClientTask) -> Any:
        self.asked += 1
        return self.does(task)

    def stop(self, run_dir: str) -> None:
        self.stopped.append(run_dir)


@pytest.fixture
def work(small_config: MakeConfig) -> ClientTask:
    return RunStore.create_or_open(small_config(executor__kind="bare"), "a-run").task("init", 0, "server")


def config_of(work: ClientTask) -> RunConfig:
    return RunStore.open(work.run_dir).config


def test_what_lies_in_the_run_directory_counts(work: ClientTask) -> None:
    fake = Fake(lambda task: None)
    executor = Plugged(fake, config_of(work))
    with pytest.raises(ClientError, match="'bare' says that it is done; there is no result") as caught:
        executor.run(work)
    assert caught.value.cause == "lost"
    fake.does = done
    assert executor.run(work).key == work.key
    assert executor.run(work).key == work.key
    assert fake.asked == 2, "what is done was asked for again"


def test_what_it_raises_is_the_clients_failure(work: ClientTask) -> None:
    with pytest.raises(ClientError, match=r"executor\.kind = 'bare' failed: ArithmeticError: of its own") as caught:
        plugged(config_of(work)).run(work)
    assert caught.value.cause == "error"

    def full(task: ClientTask) -> None:
        raise StorageError("full")

    with pytest.raises(StorageError, match="full"):
        Plugged(Fake(full), config_of(work)).run(work)


def test_a_worker_that_is_left_over_is_waited_for(work: ClientTask) -> None:
    """As after a SIGKILL of the orchestrator that had started it."""
    work.folder.mkdir(parents=True)
    descriptor = os.open(lock_path(work), os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)

    def end() -> None:
        time.sleep(1)
        done(work)
        os.close(descriptor)

    threading.Thread(target=end).start()
    fake = Fake(done)
    assert Plugged(fake, config_of(work)).run(work).key == work.key
    assert fake.asked == 0, "work was doubled"


def test_a_person_ends_it(work: ClientTask, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(task: ClientTask) -> None:
        raise KeyboardInterrupt

    fake, config = Fake(interrupted), config_of(work)
    monkeypatch.setattr("zk0.executors.plugged._make", lambda _: fake)
    with pytest.raises(KeyboardInterrupt):
        own_executor(config, ProcessExecutor(config.executor)).run(work)
    assert fake.stopped == [work.run_dir]
    stop_work(work.run_dir, config)
    assert fake.stopped == [work.run_dir] * 2
    assert STOPPED.is_set()
    STOPPED.clear()
