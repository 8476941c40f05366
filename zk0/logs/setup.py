"""Loguru, set up once per process: run.log, client.log, a terse stderr, and a bridge from the standard `logging`."""

import inspect
import logging
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loguru import logger

from zk0.config import LoggingConfig
from zk0.errors import ConfigError, StorageError
from zk0.layout import RUN_LOG
from zk0.logs.files import LogFile, SharedLogFile
from zk0.memory import usage

if TYPE_CHECKING:
    from loguru import HandlerConfig, Message, Record
FORMAT = (
    "{time:YYYY-MM-DD HH:mm:ss.SSS} | {level} | {extra[client]} | round {extra[server_round]} | PID:{process} | "
    "RAM {extra[ram]} | VRAM {extra[vram]} | {name}:{function}:{line} - {message}"
)
TERSE_FORMAT = "{time:HH:mm:ss} {level: <7} {message}"
KEPT_WORKER_LOGS = 1
"""Rotated logs that a client keeps in a round beside the one being written: a fit of days must not fill the disk."""
FORWARDED = "zk0_forwarded"
"""Attribute of a `logging` record that a sink of ours made: the bridge drops it, since Loguru has had it already."""
_SEEN = "zk0_seen"
"""Attribute of a `logging` record that a handler of ours has taken already, at another logger on its way up."""
_BRIDGED = "bridged_from"
"""Key in a Loguru record's extra: the `logging` logger that it came from."""
_OWN_HANDLERS = ("flwr", "transformers", "huggingface_hub", "datasets")
"""Libraries that print by handlers of their own, or keep their records from the root logger. Prefect is none of them:
once the root logger has a handler it prints nothing itself, and its handlers that send to the API stay."""
_CHATTY = ("httpx", "httpcore")
"""Libraries with a line for every request at INFO."""


def setup_orchestrator(run_dir: str | Path, config: LoggingConfig, stderr_level: str = "WARNING") -> None:
    """Log this process to `<run_dir>/run.log`, and what needs a human's eye to stderr.

    Calling it again replaces the sinks of the last call. Every record is on the disk, not only in the kernel's cache,
    a moment after it is logged: the queue takes the wait off the caller, and lets forked children share the file.

    Args:
        run_dir: the run directory; made when missing.
        config: level, rotation and retention of run.log.
        stderr_level: least severe level on stderr.

    Raises:
        ConfigError: rotation or retention is not in Loguru's spelling.
        StorageError: run.log cannot be opened.
    """
    path, limits = Path(run_dir) / RUN_LOG, {"rotation": config.rotation, "retention": config.retention}
    run_log = _file_sink(config, lambda: LogFile(path, compression="zip", **limits)) | {"enqueue": True}
    terse: dict[str, Any] = {"sink": _write_stderr, "level": stderr_level, "format": TERSE_FORMAT, "diagnose": False}
    terse["filter"] = _is_news
    _setup([run_log, terse], config, client="server", server_round="-")


def setup_worker(log_file: str | Path, client: str, server_round: int, config: LoggingConfig) -> None:
    """Log this worker process to one file, each record written through to the disk before the call returns.

    The file stays bounded and whole where stdout and stderr lead into it, too.

    Args:
        log_file: usually `client.log` in the client's folder of the round; its folder is made when missing.
        client: the client's name, a field of every line.
        server_round: the round, a field of every line.
        config: level and rotation.

    Raises:
        ConfigError: the rotation is not in Loguru's spelling.
        StorageError: the file cannot be opened.
    """
    sink = _file_sink(config, lambda: SharedLogFile(Path(log_file), config.rotation, KEPT_WORKER_LOGS))
    _setup([sink], config, client=client, server_round=str(server_round))


def add_sink(sink: "Callable[[Message], None]", level: str = "INFO") -> int:
    """Hand zk0's own records to another system too, in the thread and context that logged them.

    Records that came over the bridge are held back: a sink that logs by `logging` would otherwise feed itself for ever.

    Args:
        sink: gets each record; what it logs itself by `logging` should carry `extra={FORWARDED: True}`.
        level: least severe level.

    Returns:
        A handle for `remove_sink`.
    """
    return logger.add(sink, level=level, filter=_is_own, format="{message}", diagnose=False)


def remove_sink(handle: int) -> None:
    """Take back an `add_sink`; nothing happens when a new setup has removed it already."""
    try:
        logger.remove(handle)
    except ValueError:
        logger.debug("log sink {} was removed before", handle)


def bridge_stdlib(level: str) -> None:
    """Lead `logging` and `warnings` into Loguru: the root logger and the libraries that have handlers of their own.

    Imports none of them. Call it again after importing one: on import they put their console handlers back, which
    doubles their lines on stderr (never in a log file).

    Args:
        level: least severe level that the root logger lets through.
    """
    root = logging.getLogger()
    root.setLevel(level)
    for bridged in (root, *map(logging.getLogger, _OWN_HANDLERS)):
        for handler in [h for h in bridged.handlers if _is_console(h) or isinstance(h, InterceptHandler)]:
            bridged.removeHandler(handler)
        bridged.addHandler(InterceptHandler())
        bridged.propagate = False
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)


def complete() -> None:
    """Wait until every queued record is in its file; for the end of a process."""
    logger.complete()


class InterceptHandler(logging.Handler):
    """Hands records of the standard library's `logging` to Loguru, as coming from where they were logged."""

    def __init__(self) -> None:
        """Carries a formatter, though it never formats: Prefect takes over a root logger whose handlers have none."""
        super().__init__()
        self.setFormatter(logging.Formatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record again, by Loguru."""
        # transformers lets its records through to the root as well where the variable CI is set.
        if hasattr(record, FORWARDED) or hasattr(record, _SEEN):
            return
        setattr(record, _SEEN, True)
        level = record.levelname if record.levelname in _LEVELS else record.levelno

        def caller(target: "Record") -> None:
            # What `logging` found is the true caller: unlike a count of frames it respects `stacklevel` and queues.
            target["name"], target["function"], target["line"] = _module_of(record), record.funcName, record.lineno

        bound = logger.bind(**{_BRIDGED: record.name}).patch(caller)
        bound.opt(exception=record.exc_info).log(level, record.getMessage())


_LEVELS = frozenset({"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"})


def _setup(sinks: list[dict[str, Any]], config: LoggingConfig, client: str, server_round: str) -> None:
    handlers: list[HandlerConfig] = sinks  # type: ignore[assignment]  # loguru's TypedDict is a union by kind of sink
    logger.configure(handlers=handlers, extra={"client": client, "server_round": server_round}, patcher=_patch)
    bridge_stdlib(config.level)


def _file_sink(config: LoggingConfig, make: Callable[[], LogFile]) -> dict[str, Any]:
    try:
        sink = make()
    except ValueError as error:
        raise ConfigError(f"logging.rotation or logging.retention: {error}; use '500 MB' or '10 days'") from error
    except OSError as error:
        raise StorageError(f"cannot write the log: {error}; check space and permissions") from error
    # diagnose=False: values of local variables in a traceback could be frames of a private recording, or a token.
    return {"sink": sink, "level": config.level, "format": FORMAT, "diagnose": False, "colorize": False}


def _write_stderr(message: "Message") -> None:
    sys.stderr.write(message)  # looked up at every call: the live view redirects it while it draws


def _patch(record: "Record") -> None:
    ram, vram = _memory_fields(int(time.monotonic()))
    record["extra"].update(ram=ram, vram=vram)


@lru_cache(maxsize=1)
def _memory_fields(_second: int) -> tuple[str, str]:
    """Text of the RAM and VRAM fields; the argument limits psutil to one reading a second."""
    now = usage.snapshot()
    vram = _share(now.vram_allocated_bytes, now.vram_total_bytes)
    return _share(now.tree_rss_bytes, now.capacity_bytes), vram


def _share(size: int | None, capacity: int | None) -> str:
    return f"{usage.gib(size)} {100 * size / capacity:.0f}%" if size is not None and capacity else "-"


def _is_own(record: "Record") -> bool:
    return _BRIDGED not in record["extra"]


def _is_news(record: "Record") -> bool:
    """Prefect tells of every failed task with a traceback; we have told of it in one line."""
    return not str(record["extra"].get(_BRIDGED, "")).startswith("prefect")


def _is_console(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)


def _module_of(record: logging.LogRecord) -> str:
    """Full name of the module that logged; `logging` keeps only the file, the frame at that place knows it."""
    frame = inspect.currentframe()
    while frame is not None and (frame.f_code.co_filename, frame.f_lineno) != (record.pathname, record.lineno):
        frame = frame.f_back
    return record.name if frame is None else str(frame.f_globals.get("__name__", record.name))
