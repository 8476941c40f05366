"""What zk0/logs/files.py relies on in Loguru beside its documented interface; stands beside the pin of its version."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from loguru._file_sink import FileSink
from loguru._string_parsers import parse_size


class Message(str):
    """A line with the part of Loguru's record that a rotation by age looks at."""

    __slots__ = ("record",)


def test_the_pinned_minor_version() -> None:
    assert version("loguru").split(".")[:2] == ["0", "7"]


def test_a_sink_takes_the_keywords_and_opens_at_once(tmp_path: Path) -> None:
    asked: list[str] = []

    def opener(path: str, flags: int) -> int:
        asked.append(path)
        return os.open(path, flags)

    path = tmp_path / "made" / "run.log"
    sink = FileSink(path, opener=opener, rotation="1 MB", retention="10 days", compression="zip")
    assert asked == [str(path)], "the folder is made, and the file opened by us, when the sink is made"
    sink.write("a line\n")
    assert path.read_text() == "a line\n", "a line is written when `write` comes back"
    file = sink._file
    sink.stop()
    assert file.closed
    assert sink._file is None


@pytest.mark.parametrize("limit", [{"rotation": "nonsense"}, {"retention": "nonsense"}, {"compression": "nonsense"}])
def test_a_limit_that_is_not_in_its_spelling_is_a_value_error(tmp_path: Path, limit: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="nonsense"):
        FileSink(tmp_path / "run.log", **limit)


def test_a_rotation_may_be_a_function_and_is_asked_before_each_line(tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []

    def never(message: str, file: object) -> bool:
        asked.append((message, Path(str(getattr(file, "name", ""))).name))
        return False

    sink = FileSink(tmp_path / "run.log", rotation=never)
    sink.write("one\n")
    sink.write("two\n")
    sink.stop()
    assert asked == [("one\n", "run.log"), ("two\n", "run.log")]
    assert [path.name for path in tmp_path.iterdir()] == ["run.log"]


def test_a_rotation_function_looks_at_the_size_after_the_line(tmp_path: Path) -> None:
    is_due = FileSink._make_rotation_function("1 KB")
    with (tmp_path / "run.log").open("a") as file:
        assert not is_due("x" * 1000, file)
        assert is_due("x" * 1001, file)


def test_a_write_that_fails_raises_and_leaves_the_file_there(tmp_path: Path) -> None:
    sink = FileSink("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        sink.write("a line\n")
    with pytest.raises(OSError, match="No space left"):
        sink.stop()
    with pytest.raises(OSError, match="No space left"):
        sink._file.close()
    assert sink._file.closed


def test_sizes_are_bytes_and_an_age_is_none() -> None:
    sizes = {"20 KB": 20_000, "10 MB": 10_000_000, "1 MiB": 2**20, "1 day": None, "00:00": None}
    assert {text: parse_size(text) for text in sizes} == sizes


def test_the_public_way_prints_a_traceback_for_every_line() -> None:
    """Why the sink is used at all: where this fails, use `logger.add(path)`."""
    code = "from loguru import logger; logger.remove(); logger.add('/dev/full'); logger.info('one'); logger.info('two')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.count("--- Logging error in Loguru Handler") >= 2
