"""What a container died of, from what the engine, the kernel and the worker say."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import fill
from tests.unit.executors.docker.made import KERNEL_KILLS, config, state, task
from zk0.errors import ClientError, StorageError
from zk0.executors.docker.death import TIMED_OUT, outcome
from zk0.work.failure import leave_failure


@pytest.mark.parametrize(
    ("attributes", "cause", "words"),
    [
        (state(137, oom=True), "out_of_memory", r"limit of 2\.00 GiB"),
        (state(1, oom=True), "out_of_memory", r"limit of 2\.00 GiB"),
        (state(137), "lost", "SIGKILL"),
        (state(143, kills=1), "lost", "SIGTERM"),
        (state(143), "lost", "SIGTERM"),
        (state(139), "error", r"compiled code crashed the process \(SIGSEGV"),
        (state(TIMED_OUT), "timeout", r"executor\.timeout_s = 9 s"),
        (state(127, error="exec: python: not found"), "error", "python: not found"),
        (state(1), "error", r"exit code 1\).* last line: ValueError: odd; see .*client\.log"),
        ({}, "lost", "removed by someone"),
    ],
)
def test_deaths_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attributes: dict[str, Any], cause: str, words: str
) -> None:
    monkeypatch.setattr("zk0.executors.docker.death.machine_oom_kills", lambda: KERNEL_KILLS)
    made = task(config(tmp_path))
    made.folder.mkdir(parents=True)
    (made.folder / "client.log").write_text("Traceback\nValueError: odd\n\n")
    with pytest.raises(ClientError, match=words) as caught:
        outcome(made, attributes, 9)
    assert caught.value.cause == cause


@pytest.mark.parametrize(
    ("kills", "percent_in_use", "cause", "words"),
    [
        (1, 97.5, "out_of_memory", r"the machine ran out of memory .* its limit of 2\.00 GiB"),
        (0, 97.5, "lost", "SIGKILL"),
        (1, 40.0, "lost", "SIGKILL"),
    ],
)
def test_a_kill_where_the_machine_is_full_is_out_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: int, percent_in_use: float, cause: str, words: str
) -> None:
    monkeypatch.setattr("zk0.executors.docker.death.machine_oom_kills", lambda: KERNEL_KILLS)
    made = task(config(tmp_path))
    made.folder.mkdir(parents=True)
    (made.folder / "memory.jsonl").write_text(
        f'{{"pid": 7, "ram_pct": 12.0}}\n{{"pid": 7, "ram_pct": {percent_in_use}}}\n'
    )
    with pytest.raises(ClientError, match=words) as caught:
        outcome(made, state(137, kills=kills), 9)
    assert caught.value.cause == cause


def test_a_worker_that_could_tell_is_believed(tmp_path: Path) -> None:
    made = task(config(tmp_path))
    made.folder.mkdir(parents=True)
    leave_failure(made, ClientError("bad_data", "the loss is nan"))
    with pytest.raises(ClientError, match="train of 'kitchen': the loss is nan") as caught:
        outcome(made, state(3), 9)
    assert caught.value.cause == "bad_data"


def test_a_disk_that_was_full_ends_the_run_and_no_client(tmp_path: Path, make_disk: Callable[[str], Path]) -> None:
    """And is still: that it was is a container's word alone, see test_foreign."""
    disk = make_disk("64k")
    made = task(config(disk))
    made.folder.mkdir(parents=True)
    fill(disk)
    with pytest.raises(StorageError, match="No space left on device; free some space"):
        outcome(made, state(4), 9)
