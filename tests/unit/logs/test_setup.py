"""zk0.logs.setup and tasks.prefect_logs: real files, real libraries, real processes."""

import inspect
import logging
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from loguru import logger

from tests.conftest import fill
from zk0.config import LoggingConfig
from zk0.errors import StorageError
from zk0.logs.setup import (
    _OWN_HANDLERS,
    InterceptHandler,
    _memory_fields,
    add_sink,
    bridge_stdlib,
    complete,
    remove_sink,
    setup_orchestrator,
    setup_worker,
)
from zk0.memory import usage

LINE = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \| INFO \| kitchen \| round 3 \| PID:(\d+) \| "
    r"RAM \d+\.\d\d GiB \d+% \| VRAM (-|\d+\.\d\d GiB \d+%) \| tests\.unit\.logs\.test_setup:(\w+):(\d+) - a line"
)


@pytest.fixture(autouse=True)
def _restore():
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    logger.remove()
    logger.configure(extra={}, patcher=lambda record: None)
    logging.captureWarnings(False)
    root.setLevel(level)
    for name in (None, *_OWN_HANDLERS):
        bridged = logging.getLogger(name)
        bridged.handlers = [h for h in bridged.handlers if not isinstance(h, InterceptHandler)]
    root.handlers = handlers


@pytest.fixture
def worker_log(tmp_path):
    path = tmp_path / "clients" / "kitchen" / "client.log"
    setup_worker(path, "kitchen", 3, LoggingConfig())
    return path


def here() -> int:
    return inspect.currentframe().f_back.f_lineno


def test_a_line_has_every_field(worker_log):
    logger.info("a line")
    found = LINE.search(worker_log.read_text())
    assert found
    assert found.groups()[0] == str(os.getpid())
    assert found.groups()[2] == "test_a_line_has_every_field"


def test_context_names_client_and_round(tmp_path):
    setup_orchestrator(tmp_path, LoggingConfig())
    logger.info("plain")
    with logger.contextualize(client="workshop", server_round=7):
        logger.info("in context")
    complete()
    plain, in_context = (tmp_path / "run.log").read_text().splitlines()
    assert "| server | round - |" in plain
    assert "| workshop | round 7 |" in in_context


def test_standard_logging_keeps_its_true_caller(worker_log):
    logging.getLogger("some.library").info("by %s", "logging"), (line := here())
    assert worker_log.read_text().endswith(
        f"test_setup:test_standard_logging_keeps_its_true_caller:{line} - by logging\n"
    )


def test_stacklevel_is_respected(worker_log):
    def helper():
        logging.getLogger("some.library").warning("deep", stacklevel=2)

    helper(), (line := here())
    assert f"test_stacklevel_is_respected:{line} - deep" in worker_log.read_text()


def test_braces_and_percent_signs_pass_unread(worker_log):
    logging.getLogger("some.library").info("{not} a %s field")
    assert "{not} a %s field" in worker_log.read_text()


def test_flower_logs_once_and_not_to_the_console(worker_log, capfd):
    flwr = pytest.importorskip("flwr.common.logger")
    bridge_stdlib("INFO")
    flwr.log(logging.INFO, "from flower")
    assert worker_log.read_text().count("from flower") == 1
    assert "test_flower_logs_once" in worker_log.read_text()
    assert "from flower" not in "".join(capfd.readouterr())


def test_transformers_logs_once_and_not_to_the_console(worker_log, capfd):
    transformers = pytest.importorskip("transformers.utils.logging")
    library = transformers.get_logger("transformers.models.smolvlm")
    bridge_stdlib("INFO")
    library.warning("from transformers")
    assert worker_log.read_text().count("from transformers") == 1
    assert "from transformers" not in "".join(capfd.readouterr())


def test_a_library_imported_after_setup_is_in_the_log_once(tmp_path):
    code = f"""
import logging, zk0.config, zk0.logs.setup
zk0.logs.setup.setup_worker({str(tmp_path / "late.log")!r}, "kitchen", 3, zk0.config.LoggingConfig())
import prefect.logging, flwr.common.logger, transformers.utils.logging
prefect.logging.get_logger("late").info("late prefect")
flwr.common.logger.log(logging.INFO, "late flower")
transformers.utils.logging.get_logger("transformers.late").warning("late transformers")
logging.getLogger("late").info("late root")
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    text = (tmp_path / "late.log").read_text()
    assert [text.count(f"late {name}") for name in ("prefect", "flower", "transformers", "root")] == [1, 1, 1, 1]


def test_warnings_are_captured(worker_log):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("mind the gap", UserWarning, stacklevel=1)
        logging.captureWarnings(False)
    assert "UserWarning: mind the gap" in worker_log.read_text()


def test_tracebacks_are_written_without_the_values_of_variables(worker_log):
    private = "a private " + "recording"
    try:
        int("no good" if private else "")
    except ValueError:
        logger.exception("it failed")
    text = worker_log.read_text()
    assert "ValueError: invalid literal" in text
    assert "a private recording" not in text


def test_setup_twice_doubles_nothing(tmp_path):
    for _ in range(2):
        setup_orchestrator(tmp_path, LoggingConfig())
    logger.info("own")
    logging.getLogger("other").info("foreign")
    complete()
    assert len((tmp_path / "run.log").read_text().splitlines()) == 2


@pytest.mark.parametrize(("level", "kept"), [("DEBUG", 4), ("INFO", 3), ("WARNING", 2), ("ERROR", 1)])
def test_level_has_an_effect(tmp_path, level, kept):
    setup_worker(tmp_path / "client.log", "kitchen", 1, LoggingConfig(level=level))
    for name in ("DEBUG", "INFO", "WARNING", "ERROR"):
        logger.log(name, "own")
        logging.getLogger("other").log(getattr(logging, name), "foreign")
    assert len((tmp_path / "client.log").read_text().splitlines()) == 2 * kept


def test_stderr_is_terse_and_for_what_matters(tmp_path, capsys):
    setup_orchestrator(tmp_path, LoggingConfig())
    logger.info("progress")
    logger.warning("look here")
    assert re.fullmatch(r"\d\d:\d\d:\d\d WARNING look here\n", capsys.readouterr().err)


def test_rotation_and_retention_have_an_effect(tmp_path):
    setup_orchestrator(tmp_path, LoggingConfig(rotation="2 KB", retention="10 days"))
    old = tmp_path / "run.2020-01-01_00-00-00_000000.log.zip"
    old.write_bytes(b"")
    os.utime(old, (0, 0))
    for _ in range(40):
        logger.info("x" * 100)
    complete()
    assert list(tmp_path.glob("run.*.log.zip"))
    assert (tmp_path / "run.log").stat().st_size <= 2000
    assert not old.exists()


def test_a_log_that_cannot_be_written_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write the log"):
        setup_worker(tmp_path / "file" / "client.log", "kitchen", 1, LoggingConfig())


@pytest.mark.skipif(not Path("/proc/self/fdinfo").is_dir(), reason="reads Linux's /proc")
def test_lines_are_written_through_to_the_disk(worker_log):
    files = [link.name for link in Path("/proc/self/fd").iterdir() if link.resolve() == worker_log.resolve()]
    flags = [re.search(r"flags:\s+(\d+)", Path(f"/proc/self/fdinfo/{fd}").read_text())[1] for fd in files]
    assert [int(flag, 8) & os.O_DSYNC for flag in flags] == [os.O_DSYNC]


@pytest.mark.parametrize("kind", ["worker", "orchestrator"])
def test_the_last_line_of_a_killed_process_is_there(tmp_path, kind):
    setup = {
        "worker": f"setup_worker({str(tmp_path / 'run.log')!r}, 'kitchen', 3, zk0.config.LoggingConfig())",
        "orchestrator": f"setup_orchestrator({str(tmp_path)!r}, zk0.config.LoggingConfig()); ",
    }[kind]
    pause = "import time; time.sleep(0.5)" if kind == "orchestrator" else ""  # its writer is a thread
    code = f"""
import os, signal, zk0.config, zk0.logs.setup
from loguru import logger
zk0.logs.setup.{setup}
logger.info("the last word")
{pause}
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "run.log").read_text().endswith("the last word\n")


def test_memory_is_read_once_a_second(worker_log, monkeypatch):
    calls = []
    monkeypatch.setattr(usage, "snapshot", lambda real=usage.snapshot: calls.append(1) or real())
    start = time.monotonic()
    for _ in range(50):
        logger.info("line")
    assert len(calls) <= 1 + (time.monotonic() - start) // 1 + 1


@pytest.mark.parametrize(("capacity", "shown"), [(3 * 2**30, "RAM 2.94 GiB 98%"), (24 * 2**30, "RAM 2.94 GiB 12%")])
def test_memory_is_shown_as_a_share_of_what_the_process_can_have(worker_log, monkeypatch, capacity, shown):
    sizes = {"tree_rss_bytes": int(2.94 * 2**30), "capacity_bytes": capacity, "ram_percent": 50.0}
    gpu = {"vram_allocated_bytes": int(1.2 * 2**30), "vram_total_bytes": 4 * 2**30}
    now = replace(usage.snapshot(), **sizes, **gpu)
    monkeypatch.setattr(usage, "snapshot", lambda: now)
    _memory_fields.cache_clear()
    logger.info("a line")
    _memory_fields.cache_clear()
    assert f"| {shown} | VRAM 1.20 GiB 30% |" in worker_log.read_text()


def test_added_sinks_see_own_records_only(tmp_path):
    setup_orchestrator(tmp_path, LoggingConfig())
    seen = []
    handle = add_sink(lambda message: seen.append(message.record["message"]))
    logger.info("own")
    logging.getLogger("prefect.flow_runs").info("foreign")
    remove_sink(handle)
    remove_sink(handle)
    logger.info("after")
    assert seen == ["own"]


@pytest.mark.slow
def test_prefect_gets_own_records_once_and_nothing_loops(tmp_path, prefect_environment):
    prefect = pytest.importorskip("prefect")
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from tasks.prefect_logs import forward_logs

    setup_orchestrator(tmp_path, LoggingConfig())
    sent = []

    class Record(logging.Handler):
        def emit(self, record):
            sent.append((record.levelname, record.getMessage(), getattr(record, "flow_run_name", None)))

    @prefect.flow
    def a_flow():
        logger.info("own 100% {x}")
        prefect.get_run_logger().warning("from the flow's logger")

    handler = Record()
    logging.getLogger("prefect.flow_runs").addHandler(handler)
    try:
        with temporary_settings({PREFECT_API_URL: prefect_environment["PREFECT_API_URL"]}), forward_logs():
            logger.info("outside a run")
            a_flow()
    finally:
        logging.getLogger("prefect.flow_runs").removeHandler(handler)
    complete()
    text = (tmp_path / "run.log").read_text()
    ours = [item for item in sent if "own 100% {x}" in item[1]]
    assert [item[0] for item in ours] == ["INFO"]
    assert ours[0][2]  # it is on the run's page
    assert [text.count(part) for part in ("own 100% {x}", "outside a run", "from the flow's logger")] == [1, 1, 1]


def test_prefects_tracebacks_stay_off_the_terminal(tmp_path, capsys):
    setup_orchestrator(tmp_path, LoggingConfig())
    logging.getLogger("prefect.client").error("a task failed")
    logger.error("fit failed")
    complete()
    shown = capsys.readouterr().err
    assert "fit failed" in shown
    assert "a task failed" not in shown
    assert "a task failed" in (tmp_path / "run.log").read_text()


def test_a_full_disk_costs_lines_and_no_traceback(make_disk, capfd):
    disk = make_disk("64k")
    setup_orchestrator(disk, LoggingConfig())
    filler = fill(disk)
    for _ in range(2000):  # more than is left of the last page
        logger.info("a line that finds no space")
    complete()
    filler.unlink()
    logger.info("with space again")
    complete()
    assert "with space again" in (disk / "run.log").read_text()
    fill(disk)
    for _ in range(2000):
        logger.info("a line that finds no space")
    logger.remove()
    stderr = capfd.readouterr().err
    assert stderr.count("run.log: the log cannot be written: No space left on device") == 2
    assert "Traceback" not in stderr
