"""What a run of days leaves on the disk stays bounded: logs, samples, damaged rounds, notes."""

import numpy as np
import pytest
from loguru import logger

from benchmarks.service import small_run
from zk0 import findings, logs
from zk0.attempts import ATTEMPTS_FILE, note_failure
from zk0.config import LoggingConfig, validate_config
from zk0.errors import ClientError
from zk0.executors.left_behind import LONGEST_LINE
from zk0.executors.process import _outcome
from zk0.run_store import KEPT_DAMAGED, RunStore

TENSORS = {"weight": np.ones(8, np.float32)}


@pytest.fixture
def store(tmp_path):
    return RunStore.create_or_open(validate_config(small_run(tmp_path / "outputs")), "bounded")


def commit(store, number):
    store.commit(number, arrays=TENSORS, strategy_tensors={}, strategy_scalars={}, metrics={})
    store.prune(2)


def test_damaged_rounds_do_not_pile_up(store):
    commit(store, 0)
    for _ in range(KEPT_DAMAGED + 4):
        commit(store, 1)
        (store.round_folder(1) / "global.safetensors").write_bytes(b"damaged")
        assert store.resume_point().server_round == 0
    commit(store, 1)
    left = sorted(path.name for path in (store.folder / "rounds").glob("*.damaged-*"))
    assert len(left) == KEPT_DAMAGED
    assert store.resume_point().server_round == 1


def test_rounds_do_not_pile_up(store):
    for number in range(12):
        commit(store, number)
    assert store.committed_rounds() == [0, 10, 11]
    assert len(list((store.folder / "rounds").iterdir())) == 3


def test_a_talkative_worker_does_not_fill_the_disk(tmp_path):
    logs.setup_worker(tmp_path / "client.log", "kitchen", 1, LoggingConfig(rotation="20 KB"))
    for index in range(2000):
        logger.info("step {}: {}", index, "x" * 100)
    logs.complete()
    logger.remove()
    files = list(tmp_path.iterdir())
    assert len(files) == 1 + logs.KEPT_WORKER_LOGS
    assert sum(path.stat().st_size for path in files) < 3 * 20_000
    assert "step 1999" in (tmp_path / "client.log").read_text()


def test_an_endless_line_does_not_get_into_messages(store):
    task = store.task("train", 1, "kitchen")
    task.folder.mkdir(parents=True)
    (task.folder / "client.log").write_text("x" * 10_000_000 + "\n")
    with pytest.raises(ClientError) as caught:
        _outcome(task, 1)
    assert len(str(caught.value)) < LONGEST_LINE + 500
    note_failure(task, caught.value)
    assert (task.folder / ATTEMPTS_FILE).stat().st_size < LONGEST_LINE + 1000


def test_notes_of_a_client_do_not_pile_up(store):
    for number in range(findings.KEPT + 20):
        findings.ran_out(store.task("train", number, "kitchen"), 16, "figures")
    notes = findings.read(store.folder, "kitchen", "train").notes
    assert [note.server_round for note in notes] == list(range(20, findings.KEPT + 20))
