"""What a disk cannot do now says nothing of what lies on it: every read of a resume fails once, and nothing is lost.

The C library of a process of its own lets each look at the run directory fail, whoever looks; `python -m
benchmarks.hiccups` does the same with real fits, and with six errnos.
"""

import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from benchmarks.hiccups.shim import compiler
from tests.unit.runs.made import commit, fit, make_config, weights
from zk0.errors import ConfigError, DamageError, StorageError
from zk0.files import atomic, untrusted
from zk0.runs import served, will
from zk0.runs.origin import origin_tensors, settle_origin
from zk0.runs.rounds import KEPT_DAMAGED
from zk0.runs.store import RunStore

ROOT = Path(__file__).parents[3]
PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EACCES)


@pytest.mark.skipif(compiler() is None, reason="needs a C compiler")
@pytest.mark.timeout(600)
def test_every_fourth_look_of_a_resume_fails_once() -> None:
    """Every look at all takes minutes: that is the command without `--every`."""
    command = [sys.executable, "-m", "benchmarks.hiccups", "--only", "look up", "--only", "take up"]
    done = subprocess.run(
        [*command, "--errno", "EIO", "--every", "4"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = {name: list(map(int, figures)) for name, *figures in re.findall(ROW, done.stdout)}
    assert told["look up"][0] > 20
    assert told["take up"][0] > 50
    for _, went_on, refused, faults in told.values():
        assert refused > went_on > 0
        assert faults == 0


ROW = r"\| (.+) \| EIO \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|"


@pytest.mark.parametrize("number", PASSING)
def test_rounds_that_cannot_be_read_stay(store: RunStore, number: int) -> None:
    """One damaged round among them, too: only when all could be read is it set aside."""
    states = [commit(store, server_round) for server_round in range(3)]
    (store.round_folder(2) / "global.safetensors").write_bytes(b"damaged")
    before = sorted(path for path in store.folder.rglob("*"))
    with failing(number, "0000/global.safetensors"), pytest.raises(StorageError, match="cannot be read") as caught:
        store.resume_point()
    assert not isinstance(caught.value, DamageError)
    assert caught.value.exit_code == 4
    assert sorted(store.folder.rglob("*")) == before
    assert store.resume_point() == states[1]
    assert len(store.damage) == 1


def failing(number: int, name: str) -> "mock._patch[Callable[..., int]]":
    """Let one file's opening fail."""
    opened = untrusted.open_plain

    def odd(path: Path, flags: int = os.O_RDONLY, *, follow: bool = False) -> int:
        if str(path).endswith(name):
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, flags, follow=follow)

    return mock.patch.object(untrusted, "open_plain", odd)


def test_where_memory_ends_in_a_read_nothing_is_damaged(store: RunStore) -> None:
    commit(store, 0)
    with (
        mock.patch.object(untrusted, "read", side_effect=MemoryError),
        pytest.raises(StorageError, match=r"manifest.json: cannot be read: Cannot allocate memory; free some"),
    ):
        store.resume_point()
    assert store.damage == []


def test_no_run_is_taken_for_another_one_that_is_out_of_reach(tmp_path: Path) -> None:
    """A start without a name, and `continue_from`, look for the newest: a hiccup must not make it an older one."""
    old, new = (RunStore.create_or_open(make_config(tmp_path), name) for name in ("old", "new"))
    for store in (old, new):
        commit(store, 0)
    assert [store.folder.name for store in RunStore.list_runs(tmp_path)] == ["new", "old"]
    latest = make_config(tmp_path, continue_from="old")
    with failing(errno.EIO, "new/run.json"):
        assert [store.folder.name for store in RunStore.list_runs(tmp_path)] == ["old"]
        with pytest.raises(StorageError, match=r"new/run.json: cannot be read: Input/output error"):
            settle_origin(latest, "next")
    settled = settle_origin(latest, "next")
    with failing(errno.ESTALE, "global.safetensors"), pytest.raises(StorageError, match="mount that file system"):
        origin_tensors(settled)
    (old.round_folder(0) / "global.safetensors").write_bytes(b"damaged")
    with pytest.raises(ConfigError, match="name a round that is whole"):
        origin_tensors(settled)


def test_marks_that_cannot_be_read_now_are_no_marks_and_no_lack_of_them(store: RunStore) -> None:
    store.mark_stopped("cancelled")
    served.write(store.folder, served.Served(flow_run="a", database="b"))
    for name, read in (("stopped", will.read), ("served.json", served.read)):
        with failing(errno.EIO, name), pytest.raises(StorageError, match=f"{name}: cannot be read"):
            read(store.folder)
        assert read(store.folder) is not None


# -- behind links


def test_tensors_on_another_disk_are_read_and_verified(store: RunStore, tmp_path: Path) -> None:
    """As a person, or a tool such as DVC, leaves them: each file behind a link, then the whole folder."""
    first = commit(store, 0)
    state = commit(store, 1, [fit(store, 1, client, first) for client in ("left", "right")])
    disk = tmp_path / "disk"
    disk.mkdir()
    for number, path in enumerate(sorted(store.round_folder(1).rglob("*.safetensors"))):
        path.rename(disk / str(number))
        path.symlink_to(disk / str(number))
    assert store.resume_point() == state
    tensors, _ = store.load_strategy_state(1)
    np.testing.assert_array_equal(tensors["m_t/w"], np.ones(3))
    np.testing.assert_array_equal(atomic.read_tensors(store.path(state.arrays), follow=True)["w"], weights(1)["w"])
    later = commit(store, 2)
    assert store.resume_point() == later
    (disk / "2").write_bytes(b"damaged")
    store.resume_point()
    assert [path.name for path in store.folder.glob("rounds/*damaged*")] == ["0001.damaged-1"]


def test_a_disk_that_is_away_is_no_damage(store: RunStore, tmp_path: Path) -> None:
    states = [commit(store, server_round) for server_round in range(2)]
    (store.folder / "rounds").rename(tmp_path / "disk")
    (store.folder / "rounds").symlink_to(tmp_path / "disk")
    assert store.resume_point() == states[1]
    (tmp_path / "disk").rename(tmp_path / "away")
    with pytest.raises(StorageError, match=r"rounds is a link that leads nowhere; bring back"):
        store.resume_point()
    (tmp_path / "away").rename(tmp_path / "disk")
    moved = store.round_folder(1) / "global.safetensors"
    moved.rename(tmp_path / "other-disk")
    moved.symlink_to(tmp_path / "another-disk")
    with pytest.raises(StorageError, match=r"global.safetensors is a link that leads nowhere"):
        store.resume_point()
    (tmp_path / "other-disk").rename(tmp_path / "another-disk")
    assert store.resume_point() == states[1]
    assert store.damage == []


def test_a_link_in_a_clients_folder_is_not_followed(store: RunStore, tmp_path: Path) -> None:
    from zk0.work.results import find_finished

    task = store.task("train", 1, "left", commit(store, 0))
    fit(store, 1, "left", store.state(0))
    assert find_finished(task) is not None
    update = task.folder / "update.safetensors"
    update.rename(tmp_path / "elsewhere")
    update.symlink_to(tmp_path / "elsewhere")
    assert find_finished(task) is None


# -- what was set aside


def test_what_was_set_aside_is_pruned_only_when_others_came_after_it_and_it_does_not_hold(store: RunStore) -> None:
    commit(store, 0)
    for _ in range(KEPT_DAMAGED + 2):
        commit(store, 1)
        (store.round_folder(1) / "global.safetensors").write_bytes(b"damaged")
        assert store.resume_point() == store.state(0)
        store.prune(2)
    aside = sorted((store.folder / "rounds").glob("*.damaged-*"))
    assert len(aside) == KEPT_DAMAGED + 2  # nothing newer is committed
    whole = commit(store, 1)
    good = (store.round_folder(1) / "global.safetensors").read_bytes()
    (aside[0] / "global.safetensors").write_bytes(good)  # as if only the disk had been away
    os.utime(aside[0], (1, 1))
    with failing(errno.EIO, "0001.damaged-2/manifest.json"):
        store.prune(2)
    kept = {path.name for path in (store.folder / "rounds").glob("*.damaged-*")}
    assert {"0001.damaged-1", "0001.damaged-2"} <= kept
    store.prune(2)
    kept = {path.name for path in (store.folder / "rounds").glob("*.damaged-*")}
    assert "0001.damaged-1" in kept
    assert "0001.damaged-2" not in kept
    assert store.resume_point() == whole


# -- copies and moves


def test_a_copy_is_a_run_of_its_own(tmp_path: Path) -> None:
    """Its name is its folder's, its folder of runs the one that it lies in, and its finished work serves it."""
    store = RunStore.create_or_open(make_config(tmp_path / "outputs"), "run")
    state = commit(store, 0)
    done = fit(store, 1, "left", state)
    for place in (tmp_path / "outputs" / "copy", tmp_path / "elsewhere" / "run"):
        shutil.copytree(store.folder, place)
        copy = RunStore.open(place)
        assert (copy.info.name, copy.config.outputs_dir) == (place.name, str(place.parent))
        with store.lock(), copy.lock():
            assert copy.resume_point() == state
        from zk0.work.results import find_finished

        assert find_finished(copy.task("train", 1, "left", state)) == done
        commit(copy, 1)
        assert store.committed_rounds() == [0]
    assert [run.info.name for run in RunStore.list_runs(tmp_path / "outputs")] == ["copy", "run"]


def test_a_copy_is_nobody_of_the_services(store: RunStore, tmp_path: Path) -> None:
    served.write(store.folder, served.Served(flow_run="a", database="b"))
    shutil.copytree(store.folder, tmp_path / "copy")
    assert served.read(store.folder) is not None
    assert served.read(tmp_path / "copy") is None
    store.folder.rename(tmp_path / "moved")
    assert served.read(tmp_path / "moved") is None
