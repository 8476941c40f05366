"""Log files stay small, and nothing that matters is lost of them."""

import signal
import subprocess
import sys

import pytest
from loguru import logger

from zk0.config import LoggingConfig
from zk0.logs import files as logs_files
from zk0.logs.setup import KEPT_WORKER_LOGS, complete, setup_worker


def test_a_talkative_worker_does_not_fill_the_disk(tmp_path):
    setup_worker(tmp_path / "client.log", "kitchen", 1, LoggingConfig(rotation="20 KB"))
    for index in range(2000):
        logger.info("step {}: {}", index, "x" * 100)
    complete()
    logger.remove()
    files = list(tmp_path.iterdir())
    assert len(files) == 1 + KEPT_WORKER_LOGS
    assert sum(path.stat().st_size for path in files) < 3 * 20_000
    assert "step 1999" in (tmp_path / "client.log").read_text()


TALK = """
import faulthandler, os, subprocess, sys, time
from pathlib import Path
from loguru import logger
from zk0.config import LoggingConfig
from zk0.executors import worker
from zk0.logs import files, setup

files.LOOK_S = 0.05
log = Path(sys.argv[1])
worker._redirect_output(log)
decoder = subprocess.Popen(["sh", "-c", "read go; echo the decoder >&2"], stdin=subprocess.PIPE)
setup.setup_worker(log, "kitchen", 1, LoggingConfig(rotation="20 KB"))
for burst in range(10):
    for _ in range(300):
        os.write(2, b"x" * 99 + b"\\n")
    deadline = time.monotonic() + 20
    while log.stat().st_size > 20_000:
        if time.monotonic() > deadline:
            sys.exit("the log is not kept small")
        time.sleep(0.01)
logger.info("by Loguru")
decoder.communicate(b"\\n")
print("by print", flush=True)
faulthandler.enable()
os.abort()
"""


def test_what_libraries_write_to_stderr_does_not_fill_the_disk_and_last_words_are_in_the_log(tmp_path):
    """Without a line of Loguru's, with a child that was started before; the log is one file for all of them."""
    log = tmp_path / "client.log"
    done = subprocess.run([sys.executable, "-c", TALK, str(log)], check=False)
    text = log.read_text()
    assert done.returncode == -signal.SIGABRT, text[-200:]
    for words in ("by Loguru", "the decoder", "by print", "Fatal Python error: Aborted"):
        assert words in text
    files = list(tmp_path.iterdir())
    assert len(files) == 1 + KEPT_WORKER_LOGS
    assert sum(path.stat().st_size for path in files) < 5 * 20_000


def test_nothing_is_lost_by_a_rotation(tmp_path):
    setup_worker(tmp_path / "client.log", "kitchen", 1, LoggingConfig(rotation="20 KB"))
    for index in range(120):
        logger.info("step {}: {}", index, "x" * 50)
    logger.remove()
    older, newest = sorted(tmp_path.iterdir(), key=lambda path: path.name == "client.log")
    told = [line.split("step ")[1].split(":")[0] for line in (older.read_text() + newest.read_text()).splitlines()]
    assert told == [str(index) for index in range(120)]


def test_a_log_is_kept_small_though_no_copy_can_be_made(tmp_path, monkeypatch, capfd):
    def full(path, target):
        target.write_text("a part of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(logs_files, "_copy", full)
    setup_worker(tmp_path / "client.log", "kitchen", 1, LoggingConfig(rotation="20 KB"))
    for index in range(200):
        logger.info("step {}: {}", index, "x" * 100)
    logger.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["client.log"]
    assert (tmp_path / "client.log").stat().st_size <= 20_000
    assert "step 199" in (tmp_path / "client.log").read_text()
    assert "client.log: the log cannot be written: No space left on device" in capfd.readouterr().err


@pytest.mark.parametrize("rotation", ["1 day", "00:00"])
def test_a_log_that_is_rotated_by_age_is_written(tmp_path, rotation):
    setup_worker(tmp_path / "client.log", "kitchen", 1, LoggingConfig(rotation=rotation))
    logger.info("a line")
    logger.remove()
    assert "a line" in (tmp_path / "client.log").read_text()
