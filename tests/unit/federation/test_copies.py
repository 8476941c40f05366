"""A run is its folder: what `cp -r` and `mv` make of one is told from it, whatever its run.json calls it."""

import shutil
from pathlib import Path

import pytest

from tests.unit.federation.test_start import check
from tests.unit.runs.made import commit, weights
from tests.unit.runs.test_origin import committed, config_of
from zk0.errors import ConfigError, StorageError
from zk0.federation.start import begin, choose_run, unfinished
from zk0.runs.origin import origin_tensors, settle_origin
from zk0.runs.store import RunStore, is_finished


def finished(outputs: Path, name: str) -> RunStore:
    store = committed(config_of(outputs), name, 2)
    (store.folder / "final").mkdir()
    return store


def test_an_unfinished_copy_goes_on_itself_and_not_as_the_finished_run_beside_it(tmp_path: Path) -> None:
    """A nightly that found the copy went on with the original, which needs nothing, and said that all was well."""
    committed(config_of(tmp_path), "nightly", 1)
    shutil.copytree(tmp_path / "nightly", tmp_path / "backup")
    original = finished(tmp_path, "nightly")
    assert is_finished(original)
    found = begin(config_of(tmp_path), check=check, wait=True)
    assert (found.folder.name, found.info.name, is_finished(found)) == ("backup", "backup", False)
    assert choose_run(str(tmp_path / "backup"), [], None, by_hand=False).folder == found.folder
    with found.lock():
        state = found.resume_point()
    assert state is not None
    assert (state.server_round, original.committed_rounds()) == (1, [0, 1, 2])


def test_a_run_that_was_renamed_or_moved_goes_on_where_it_is(tmp_path: Path) -> None:
    store = committed(config_of(tmp_path / "a"), "before", 1)
    store.folder.rename(tmp_path / "a" / "after")
    found = unfinished(config_of(tmp_path / "a"))
    assert found is not None
    assert found.folder == tmp_path / "a" / "after"
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["after"]
    (tmp_path / "b").mkdir()
    found.folder.rename(tmp_path / "b" / "after")
    assert unfinished(config_of(tmp_path / "a")) is None
    moved = unfinished(config_of(tmp_path / "b"))
    assert moved is not None
    with moved.lock():
        assert moved.resume_point() is not None
    assert RunStore.open(tmp_path / "b" / "after").config.outputs_dir == str(tmp_path / "b")


def test_a_cancelled_copy_stands_still_and_the_original_does_not(tmp_path: Path) -> None:
    original = committed(config_of(tmp_path), "original", 1)
    shutil.copytree(original.folder, tmp_path / "copy")
    RunStore.open(tmp_path / "copy").mark_stopped("cancelled")
    found = unfinished(config_of(tmp_path))
    assert found is not None
    assert found.folder.name == "original"
    assert found.stopped is None


def test_continue_from_means_the_folders_name(tmp_path: Path) -> None:
    finished(tmp_path, "old").folder.rename(tmp_path / "new")
    shutil.copytree(tmp_path / "new", tmp_path / "copy")
    for name in ("new", "copy"):
        settled = settle_origin(config_of(tmp_path, continue_from=name), "next")
        assert settled.continue_from == f"{name}@2"
        assert origin_tensors(settled)[0].folder == tmp_path / name
    with pytest.raises(ConfigError, match=r"continue_from = 'old': no such run in .*; runs there: .*new"):
        settle_origin(config_of(tmp_path, continue_from="old"), "next")


def test_a_run_that_is_moved_while_it_is_advanced_begins_nothing_in_its_old_place(tmp_path: Path) -> None:
    """Its rounds were gone there: it began with round 0 again, in a folder that was no run."""
    store = committed(config_of(tmp_path), "moving", 1)
    with store.lock():
        assert store.resume_point() is not None
        store.folder.rename(tmp_path / "moved")
        for again in (store.resume_point, lambda: store.place(2, "global", weights(2)), lambda: commit(store, 2)):
            with pytest.raises(
                StorageError, match="moving: was moved or removed while the run was advanced; put it back"
            ):
                again()
        assert not store.folder.exists()
        (tmp_path / "moved").rename(store.folder)
        assert store.resume_point() is not None
        shutil.copytree(store.folder, tmp_path / "copy")
        shutil.rmtree(store.folder)
        (tmp_path / "copy").rename(store.folder)
        with pytest.raises(StorageError, match="was moved or removed"):
            store.resume_point()
