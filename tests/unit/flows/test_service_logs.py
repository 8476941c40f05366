"""The logs of server and worker: within bounds while somebody writes, and without a traceback for each retry."""

import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.server import LOGGING
from flows.service_logs import rotate
from zk0.logs import quiet

WRITER = "import sys\nfor line in sys.stdin:\n    print(line, end='', flush=True)"


def test_a_log_that_is_being_written_is_rotated(tmp_path: Path) -> None:
    log = tmp_path / "zk0-server.log"
    with log.open("ab") as output:
        writer = subprocess.Popen([sys.executable, "-c", WRITER], stdin=subprocess.PIPE, stdout=output, text=True)
    assert writer.stdin is not None
    seen, most = 0, 2000
    for number in range(300):
        writer.stdin.write(f"line {number} {'x' * 50}\n")
        writer.stdin.flush()
        rotate(log, most)
        seen = max(seen, log.stat().st_size)
    writer.stdin.write("the last\n")
    writer.stdin.close()
    assert writer.wait(30) == 0
    rotate(log, most)
    assert seen < 3 * most
    both = log.with_name("zk0-server.log.1").read_text() + log.read_text()
    assert both.endswith("the last\n")
    assert "\0" not in both, "written at the new end, not at the old one"
    rotate(tmp_path / "absent.log", most)


def test_a_retry_is_a_line_in_ten_minutes_and_what_else_happens_is_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("docket.dependencies")
    passing = quiet.Passing()
    caplog.handler.addFilter(passing)
    locked = RuntimeError("(sqlite3.OperationalError) database is locked [SQL: UPDATE deployment]")
    try:
        for _ in range(50):
            logger.error("retry %s", "mark_deployments_ready()", exc_info=locked)
        assert [record.getMessage() for record in caplog.records] == ["1 times: database is locked; it is tried again"]
        assert caplog.records[0].exc_info is None
        logger.error("other", exc_info=RuntimeError("disk full"))
        assert "disk full" in caplog.text
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + quiet.SAY_EVERY_S)
        logger.error("again", exc_info=locked)
        assert caplog.records[-1].getMessage().startswith("50 times")
    finally:
        caplog.handler.removeFilter(passing)


def test_prefect_takes_our_file(tmp_path: Path) -> None:
    """In a process of its own: logging is set up once."""
    code = f"""
import os
os.environ.update(PREFECT_LOGGING_SETTINGS_PATH={str(LOGGING)!r}, PREFECT_HOME={str(tmp_path)!r})
import logging, prefect
from prefect.logging.configuration import setup_logging
setup_logging()
try:
    raise ValueError("database is locked")
except ValueError:
    for _ in range(9):
        logging.getLogger("docket.dependencies").exception("retried")
logging.getLogger("prefect.server").warning("seen")
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr
    assert "Traceback" not in said
    assert said.count("database is locked") == 1
    assert "seen" in said
