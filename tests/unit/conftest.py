"""A run to try things on, and what is said meanwhile."""

from collections.abc import Callable, Iterator

import pytest
from loguru import logger

from zk0.config import RunConfig
from zk0.runs.store import RunStore


@pytest.fixture
def store(small_config: Callable[..., RunConfig]) -> RunStore:
    return RunStore.create_or_open(small_config(), "run")


@pytest.fixture
def warnings() -> list[str]:
    lines: list[str] = []
    logger.add(lines.append, level="WARNING", format="{message}")
    return lines


@pytest.fixture
def told() -> Iterator[list[str]]:
    lines: list[str] = []
    handle = logger.add(lambda message: lines.append(message.record["message"]), level="INFO")
    yield lines
    logger.remove(handle)
