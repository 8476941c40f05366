"""Why a worker ended, as it leaves it and as the orchestrator reads it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from zk0.errors import ClientError, DatasetError, HopelessError, StorageError
from zk0.executors.death import outcome
from zk0.executors.worker import FAILURE_EXIT_CODE
from zk0.runs.store import RunStore
from zk0.work.failure import leave_failure, read_failure
from zk0.work.log import client_log
from zk0.work.records import ClientTask


@pytest.fixture
def task(store: RunStore) -> ClientTask:
    made = store.task("train", 1, "kitchen")
    made.folder.mkdir(parents=True)
    return made


@pytest.mark.parametrize(
    ("error", "kind", "cause", "words"),
    [
        (TypeError("not iterable"), HopelessError, "error", "TypeError: not iterable (at no known place); see {log}"),
        (NotImplementedError("ask"), HopelessError, "error", "NotImplementedError: ask (at no known place); see {log}"),
        (RuntimeError("CUDA error: x"), ClientError, "error", "RuntimeError: CUDA error: x (at no known place)"),
        (ConnectionError("reset"), ClientError, "error", "ConnectionError: reset"),
        (MemoryError("9 TiB"), ClientError, "out_of_memory", "out of memory: MemoryError: 9 TiB"),
        (DatasetError("row 3 is odd; mend it"), HopelessError, "bad_data", "row 3 is odd; mend it"),
        (ClientError("bad_data", "the loss is nan"), HopelessError, "bad_data", "the loss is nan"),
        (ClientError("timeout", "too long"), ClientError, "timeout", "too long"),
        (StorageError("no space left"), StorageError, None, "no space left"),
    ],
    ids=lambda item: repr(item)[:30],
)
def test_a_reason_is_read_as_it_was_left(
    task: ClientTask, error: Exception, kind: type[ClientError | StorageError], cause: str | None, words: str
) -> None:
    leave_failure(task, error)
    found = read_failure(task)
    assert type(found) is kind
    assert str(found).startswith(f"train of 'kitchen': {words.format(log=client_log(task))}")
    assert getattr(found, "cause", None) == cause


@pytest.mark.parametrize(
    ("raised", "words", "retriable"),
    [
        (
            "KeyError('observation.state')",
            r"KeyError: 'observation\.state' \(in .*, called at zk0/executors/worker",
            False,
        ),
        ("SystemExit('usage: lerobot')", "SystemExit: usage: lerobot", False),
        ("ConnectionResetError(104, 'reset')", r"ConnectionResetError: \[Errno 104\] reset", True),
    ],
)
def test_a_worker_says_what_a_library_raised(task: ClientTask, raised: str, words: str, retriable: bool) -> None:
    """In its last act: what is imported for the work is a stand-in, the worker is the real one."""
    code = f"""
import sys, types
for name in ("zk0.executors.preload", "zk0.client.inputs", "zk0.client.run", "zk0.logs.setup"):
    sys.modules[name] = types.ModuleType(name)
def fails(*_):
    raise {raised}
sys.modules["zk0.client.inputs"].read_config = fails
sys.modules["zk0.client.run"].run_task = sys.modules["zk0.logs.setup"].setup_worker = None
from zk0.executors.worker import work
work({task.model_dump_json()!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == FAILURE_EXIT_CODE, done.stderr
    assert not done.stderr
    with pytest.raises(ClientError, match=words) as caught:
        outcome(task, done.returncode)
    assert caught.value.retriable is retriable
    assert caught.value.cause == "error"
    assert "Traceback (most recent call last)" in client_log(task).read_text()


def test_a_worker_that_compiled_code_ended_says_where(task: ClientTask) -> None:
    code = f"""
import faulthandler, os, signal
log = os.open({str(client_log(task))!r}, os.O_WRONLY | os.O_CREAT)
faulthandler.enable(log)
def decode():
    os.kill(os.getpid(), signal.SIGSEGV)
decode()
"""
    script = Path(task.folder, "decoder.py")
    script.write_text(code)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, env=dict(os.environ), check=False)
    with pytest.raises(ClientError, match=r"SIGSEGV, Segmentation fault\), called in .*/decoder\.py:6; see") as caught:
        outcome(task, done.returncode)
    assert caught.value.cause == "error"
    assert caught.value.retriable
