"""What leaves a node of a failure: zk0's own words without paths, and of a library its error's class alone."""

from pathlib import Path

import pytest

from tests.unit.link.asking import make_request, make_run, make_task
from zk0.errors import (
    ClientError,
    ConfigError,
    DatasetError,
    HopelessError,
    RefusedError,
    StorageError,
    UnforeseenInputError,
)
from zk0.link.wire import Answer
from zk0.node.words import failed, without_paths
from zk0.work.failure import leave_failure
from zk0.work.records import ClientTask

SECRET = "/home/anna/recordings/kitchen"


def said(tmp_path: Path, error: Exception, left: BaseException | None = None, *, at_work: bool = True) -> Answer:
    """The answer to work that ended so, after its worker process left `left`."""
    store = make_run(tmp_path)
    task: ClientTask = make_task(store)
    if left is not None:
        leave_failure(task, left)
    return failed(make_request(store, task), error, task if at_work else None)


@pytest.mark.parametrize(
    ("text", "without"),
    [
        (f"root = '{SECRET}' holds no dataset", "root = '.../kitchen' holds no dataset"),
        (f"{SECRET}/meta/info.json: no JSON", ".../info.json: no JSON"),
        ("see ~/x/y.log", "see .../y.log"),
        ("data/chunk-000/file-000.parquet is missing", "data/chunk-000/file-000.parquet is missing"),
        ("fps is 30, and/or 25", "fps is 30, and/or 25"),
        (f"one\n{SECRET} two", "one .../kitchen two"),
    ],
)
def test_paths_of_the_owner_are_names_alone(text: str, without: str) -> None:
    assert without_paths(text) == without


def test_our_own_words_of_a_worker_process_are_told(tmp_path: Path) -> None:
    left = DatasetError(f"dataset 'left': root = '{SECRET}' holds no LeRobot dataset; give another")
    answer = said(tmp_path, ClientError("bad_data", "x"), left)
    assert answer.cause == "bad_data"
    assert "holds no LeRobot dataset; give another" in answer.message
    assert "anna" not in answer.message


@pytest.mark.parametrize("error", [ValueError(f"{SECRET}: 'my diary'"), KeyError("my diary")])
def test_of_a_librarys_error_nothing_is_told_but_its_class(tmp_path: Path, error: Exception) -> None:
    inside = said(tmp_path, HopelessError("error", "x: my diary"), error)
    outside = said(tmp_path, error, at_work=False)
    for answer in (inside, outside):
        assert type(error).__name__ in answer.message
        assert "diary" not in answer.message
        assert "anna" not in answer.message
    assert (inside.repeats, inside.cause) == (True, "error")


@pytest.mark.parametrize("cause", ["out_of_memory", "timeout", "lost"])
def test_a_death_without_a_word_is_told_by_its_cause_and_no_line_of_the_log(tmp_path: Path, cause) -> None:
    answer = said(tmp_path, ClientError(cause, f"killed; its log's last line: {SECRET} my diary"))
    assert answer.cause == cause
    assert "diary" not in answer.message


def test_before_any_work_our_own_words_are_told_and_unforeseen_ones_not(tmp_path: Path) -> None:
    assert (
        said(tmp_path, ConfigError(f"device 'cuda' in {SECRET}"), at_work=False).message
        == "device 'cuda' in .../kitchen"
    )
    assert "diary" not in said(tmp_path, UnforeseenInputError("ValueError: my diary"), at_work=False).message
    assert "anna" not in said(tmp_path, StorageError(f"{SECRET}: full"), at_work=False).message


def test_a_refusal_is_told_by_its_rule_and_is_final(tmp_path: Path) -> None:
    answer = said(
        tmp_path, RefusedError("refused", "it asks for 900 steps, and rules.steps_per_fit = 50"), ValueError("my diary")
    )
    assert (answer.cause, answer.repeats) == ("refused", True)
    assert answer.message == "it asks for 900 steps, and rules.steps_per_fit = 50"
