"""The executor that the config asks for."""

from pathlib import Path

import pytest

from tests.unit.executors.docker.made import config, task
from zk0.executors.choice import CheckedExecutor
from zk0.work.executor import STOPPED
from zk0.work.records import ClientResult, ClientTask


def test_ctrl_c_in_a_comparison_ends_its_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def run(self, made: ClientTask) -> ClientResult:
            raise KeyboardInterrupt

    ended: list[str] = []
    monkeypatch.setattr("zk0.executors.docker.executor.stop_containers", ended.append)
    monkeypatch.setattr(CheckedExecutor, "_executor", Interrupted())
    made = task(config(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        CheckedExecutor(config(tmp_path)).run(made)
    assert ended == [made.run_dir]
    STOPPED.clear()
