"""A container's log, told while it runs."""

from pathlib import Path

import pytest
from loguru import logger

from zk0.executors.docker.log_tail import LONGEST_LINE, LogTail
from zk0.files.untrusted import LONGEST_WORDS


def test_the_clients_lines_are_told_once_and_whole(tmp_path: Path) -> None:
    log = tmp_path / "client.log"
    log.write_text("from an attempt before\n")
    told: list[str] = []
    handle = logger.add(lambda message: told.append(message.record["message"]), level="INFO")
    try:
        tail = LogTail(log, "kitchen")
        prefix = "2026-11-21 22:00:00.000 | {} | kitchen | round 1 | PID:7 | RAM 1 GiB 1% | VRAM - | zk0.x:f:1 - "
        with log.open("a") as file:
            file.write(prefix.format("INFO") + "train starts - in round 1\n" + prefix.format("DEBUG") + "step\nTrace")
            file.flush()
            tail.forward()
            file.write("back\n")
            file.flush()
            tail.forward()
            tail.forward()
    finally:
        logger.remove(handle)
    assert told == ["kitchen: train starts - in round 1", "kitchen: Traceback"]


@pytest.mark.parametrize("how", ["emptied", "replaced", "removed"])
def test_a_rotated_log_is_told_from_its_beginning(tmp_path: Path, told: list[str], how: str) -> None:
    log = tmp_path / "client.log"
    log.write_text("first\nsecond\nthird and torn")
    tail = LogTail(log, "kitchen")
    if how == "replaced":
        log.rename(tmp_path / "client.old.log")
    elif how == "removed":
        log.unlink()
        tail.forward()
        (tmp_path / "other").touch()  # takes the inode, which would else come back
    words = "anew\n" if how == "emptied" else "anew\n" + "longer than the one before\n" * 2
    log.write_text(words)
    tail.forward()
    with log.open("a") as file:
        file.write("and on\n")
    tail.forward()
    assert told == [f"kitchen: {line}" for line in [*words.splitlines(), "and on"]]


def test_a_line_without_an_end_is_told_and_cut(tmp_path: Path, told: list[str]) -> None:
    log = tmp_path / "client.log"
    tail = LogTail(log, "kitchen")
    lines = ["x" * index + str(index) for index in range(400)]
    log.write_text("\n".join(lines) + "\n" + "y" * 2 * LONGEST_LINE)
    tail.forward()
    assert told[:400] == [f"kitchen: {line}" for line in lines]
    assert told[400:] == ["kitchen: " + "y" * LONGEST_WORDS]
    with log.open("a") as file:
        file.write("and on\nend\n")
    tail.forward()
    assert told[401:] == ["kitchen: and on", "kitchen: end"]
