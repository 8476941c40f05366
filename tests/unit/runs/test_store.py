"""The run directory is made once, found again, and is of one config."""

from pathlib import Path

import pytest

from tests.unit.runs.made import make_config
from zk0.errors import ConfigError, RunNameError, StorageError
from zk0.files import atomic
from zk0.runs.store import RunStore


def test_a_new_run_is_a_pure_function_of_config_and_name(tmp_path: Path) -> None:
    one = RunStore.create_or_open(make_config(tmp_path / "a"), "run")
    two = RunStore.create_or_open(make_config(tmp_path / "b"), "run")
    assert one.info.id == two.info.id != RunStore.create_or_open(make_config(tmp_path / "b"), "other").info.id
    info = atomic.read_sealed(tmp_path / "a" / "run" / "run.json")
    assert info["config"] == one.config.model_dump(mode="json")
    assert (info["config_digest"], info["seed"]) == (one.config.digest, 42)
    assert info["versions"].keys() == {"zk0", "lerobot", "flwr", "prefect", "peft", "torch", "python"}


def test_the_same_config_opens_the_run_and_brings_its_executor_along(tmp_path: Path) -> None:
    first = RunStore.create_or_open(make_config(tmp_path), "run")
    before = (tmp_path / "run" / "run.json").read_bytes()
    changed = {"executor": {"max_parallel": 7}, "checkpoint": {"keep": 9}, "logging": {"level": "DEBUG"}}
    again = RunStore.create_or_open(make_config(tmp_path, **changed), "run")
    assert (again.info.id, again.config.executor.max_parallel) == (first.info.id, 7)
    assert (tmp_path / "run" / "run.json").read_bytes() == before  # nobody writes without the lock
    with again.lock():
        pass
    assert RunStore.open(tmp_path, "run").config == again.config


def test_another_config_is_refused_and_the_keys_are_named(tmp_path: Path) -> None:
    RunStore.create_or_open(make_config(tmp_path), "run")
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(RunNameError) as caught:
        RunStore.create_or_open(
            make_config(tmp_path, seed=7, training={"steps": 3}, executor={"max_parallel": 2}), "run"
        )
    text = str(caught.value)
    assert "seed is 42 there, 7 here" in text
    assert "training.steps is 200 there, 3 here" in text
    assert "another --name" in text
    assert "executor" not in text
    assert (tmp_path / "run" / "run.json").read_bytes() == before


def test_a_run_at_home_does_not_go_on_over_a_link(tmp_path: Path) -> None:
    """What is a node's stands outside the digest there: the other's finished work would count as another's."""
    RunStore.create_or_open(make_config(tmp_path), "run")
    with pytest.raises(RunNameError, match=r"executor\.kind is 'process' there, 'superlink' here"):
        RunStore.create_or_open(make_config(tmp_path, executor={"kind": "superlink"}), "run")


@pytest.mark.parametrize("name", ["", "../up", "Upper", "a b", "a/b", "a" * 64])
def test_bad_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunNameError, match="run name"):
        RunStore.create_or_open(make_config(tmp_path), name)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(RunNameError, match="not a run of zk0"):
        RunStore.create_or_open(make_config(tmp_path), "photos")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / ".run.json.123.tmp").touch()  # a creation that was killed
    RunStore.create_or_open(make_config(tmp_path), "half")


def test_outputs_dir_that_cannot_be_written_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for outputs in (tmp_path / "file", Path("/proc/zk0")):
        with pytest.raises(ConfigError, match=r"outputs_dir = '.*': cannot be written") as caught:
            RunStore.create_or_open(make_config(outputs), "run")
        assert caught.value.exit_code == 2


def test_unknown_damaged_and_listed_runs(tmp_path: Path, warnings: list[str]) -> None:
    RunStore.create_or_open(make_config(tmp_path), "old")
    RunStore.create_or_open(make_config(tmp_path), "new")
    RunStore.create_or_open(make_config(tmp_path), "broken")
    (tmp_path / "broken" / "run.json").write_text("{")
    assert [run.info.name for run in RunStore.list_runs(tmp_path)] == ["new", "old"]
    assert "broken" in warnings[0]
    with pytest.raises(RunNameError, match="runs there: new, old"):
        RunStore.open(tmp_path, "older")
    with pytest.raises(StorageError, match=r"broken/run.json: cannot be read"):
        RunStore.open(tmp_path, "broken")
    assert RunStore.open(tmp_path / "old").info.name == "old"
    assert RunStore.list_runs(tmp_path / "nothing") == []
