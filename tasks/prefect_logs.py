"""zk0's own log records in the Prefect UI, on the page of the flow or task run that logged them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prefect import get_run_logger
from prefect.exceptions import MissingContextError

from zk0.logs.setup import FORWARDED, add_sink, remove_sink

if TYPE_CHECKING:
    from loguru import Message


@contextmanager
def forward_logs(level: str = "INFO") -> Iterator[None]:
    """Forward zk0's records to Prefect while the block runs; once per process, around the parent flow's body.

    Args:
        level: least severe level that is forwarded.
    """
    handle = add_sink(_forward, level)
    try:
        yield
    finally:
        remove_sink(handle)


def _forward(message: "Message") -> None:
    record = message.record
    try:
        run_logger = get_run_logger()
    except MissingContextError:
        return  # logged outside a run, such as by a thread of ours: run.log has it
    error = record["exception"].value if record["exception"] else None
    run_logger.log(record["level"].no, record["message"], exc_info=error, extra={FORWARDED: True})
