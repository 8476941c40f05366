"""Which run a start means, and what must hold before it begins."""

import errno
import fcntl
import os
import shutil
from functools import partial
from pathlib import Path

import pytest

from tests.unit.runs.test_origin import committed, config_of
from zk0 import cli
from zk0.config import RunConfig
from zk0.errors import BadInputError, ConfigError, RunNameError, StorageError
from zk0.federation.start import begin, choose_run, new_name, unfinished
from zk0.memory import client_limits
from zk0.memory.estimate import MemoryEstimate
from zk0.preflight.records import Preflight
from zk0.runs.store import RunStore, check_name, is_finished


def check(config: RunConfig) -> Preflight:
    return Preflight(config=config, frames={}, exchanged_bytes=1)


MIB = 2**20


def estimate(budget: int) -> MemoryEstimate:
    return MemoryEstimate(fixed=1000 * MIB, per_frame=100 * MIB, budget=budget * MIB, whose="of this machine")


@pytest.mark.parametrize(("budget", "size"), [(2600, None), (2599, 8), (1800, 8), (1799, 4), (1100, 1)])
def test_a_run_begins_with_the_micro_batch_that_is_expected_to_fit(
    tmp_path: Path, budget: int, size: int | None
) -> None:
    config = config_of(tmp_path, training__batch_size=16)
    store = begin(
        config, "small", "sim", check=lambda config: check(config).model_copy(update={"memory": estimate(budget)})
    )
    for client in config.clients:
        known = client_limits.read(store.folder, client.name, "train")
        assert (known and known.micro_batch_size) == size
        if known is not None:
            assert "estimate before the run: needs 2.54 GiB" in known.notes[0].figures


def test_a_run_that_cannot_fit_is_refused_and_nothing_is_created(tmp_path: Path) -> None:
    config = config_of(tmp_path / "outputs", training__batch_size=16)
    with pytest.raises(ConfigError, match=r"needs about 1.07 GiB even with one frame .* may use 1.07 GiB of this"):
        begin(config, "none", "sim", check=lambda config: check(config).model_copy(update={"memory": estimate(1099)}))
    assert not (tmp_path / "outputs").exists()


def test_an_unfinished_run_goes_on_from_where_it_was_settled_to_begin(tmp_path: Path) -> None:
    finished = committed(config_of(tmp_path), "old", 2)
    (finished.folder / "final").mkdir()
    assert is_finished(finished)
    wanted = config_of(tmp_path, continue_from="latest")
    first = begin(wanted, None, "nightly", check=check)
    committed(config_of(tmp_path, seed=8), "newer", 2)
    assert first.config.continue_from == "old@2"
    assert unfinished(wanted) is not None
    assert begin(wanted, None, "nightly", check=check).info == first.info
    assert begin(wanted, first.info.name, "nightly", check=check).info == first.info


def test_a_name_that_a_form_filled_in_is_a_new_runs_unless_one_goes_on(tmp_path: Path) -> None:
    start = partial(begin, config_of(tmp_path), None, "nightly", check=check, wait=True)
    first = start(suggested="pi2-skat")
    assert first.info.name == "pi2-skat"
    assert start(suggested="mu126-torii").info == first.info
    first.mark_stopped("cancelled", "Prefect")
    assert start(suggested="mu126-torii").info.name == "mu126-torii"
    assert start(suggested="pi2-skat").info == first.info, "it is named"


def test_what_a_person_stopped_goes_on_by_a_person_alone(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    store = begin(config, "mine", check=check)
    served = partial(begin, config, None, "nightly", check=check, wait=True)
    by_hand = partial(begin, config, None, "sim", check=check)

    store.mark_stopped("interrupted")
    assert by_hand().info.name == "mine"  # `zk0 run` again, after Ctrl-C
    store.mark_stopped("cancelled", "Prefect")
    other = by_hand()
    assert other.info.name != "mine"
    other.mark_stopped("interrupted")
    assert served().info.name.startswith("nightly-"), "neither the cancelled one nor the interrupted one"
    assert begin(config, "mine", check=check).info == store.info
    for start in (str(store.folder), "sim"):
        settings = [f"outputs_dir={str(tmp_path)!r}"]
        with pytest.raises(
            RunNameError, match=r"'mine' stands still, cancelled by Prefect at .*; .* `zk0 resume mine`"
        ):
            choose_run(start, settings, "mine", by_hand=False)
    assert choose_run(str(store.folder), [], None).info == store.info


def test_without_locks_no_run_begins_or_goes_on_and_no_folder_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = begin(config_of(tmp_path / "there"), "mine", check=check)

    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refused)
    with pytest.raises(ConfigError, match=r"outputs_dir = .*No locks available; choose a folder on a file system that"):
        begin(config_of(tmp_path / "none"), "mine", check=check)
    assert not (tmp_path / "none").exists()
    with pytest.raises(ConfigError, match=r"^--outputs = .*No locks available; choose a folder on a file system that"):
        cli.serve(outputs=tmp_path / "none")
    with pytest.raises(StorageError, match=r"run.lock: cannot be locked: No locks available"), there.lock():
        pass


@pytest.mark.parametrize("strategy", ["fedavgm", "fedadam", "fedyogi"])
def test_the_disk_must_have_room_for_a_strategys_state(tmp_path: Path, strategy: str) -> None:
    """Two more sets of tensors for each kept round: 6 x (1 + 2 clients) + 6 x 2 at work are 30, with them 42."""
    free = shutil.disk_usage(tmp_path).free
    size = free // 36

    def large(config: RunConfig) -> Preflight:
        return Preflight(config=config, frames={}, exchanged_bytes=size)

    begin(config_of(tmp_path), "plain", "sim", check=large)
    with pytest.raises(ConfigError, match="free some space"):
        begin(config_of(tmp_path, federation__strategy=strategy), "stateful", "sim", check=large)


def not_reached(config: RunConfig) -> Preflight:
    raise AssertionError("data were looked at first")


@pytest.mark.parametrize(
    ("name", "outputs", "words"),
    [
        ("Upper", "outputs", "run name 'Upper': give lower-case"),
        ("../up", "outputs", "run name '../up'"),
        ("a\0b", "outputs", "run name"),
        ("a" * 5000, "outputs", "run name 'aaa"),
        (None, "file", r"outputs_dir = '.*file': .*file is no folder; choose another place"),
        (None, "file/below", r"file is no folder"),
        (None, "loop", "loop is no folder"),
        (None, "loop/below", "loop is no folder"),
        (None, "nowhere", "nowhere is no folder"),
    ],
)
def test_a_name_or_folder_that_cannot_be_is_refused_before_the_data_are_looked_at(
    tmp_path: Path, name: str | None, outputs: str, words: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(BadInputError, match=words):
        begin(config_of(tmp_path / outputs), name, check=not_reached)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("stem", ["sim", "Küche", "a" * 300, "[x] y", "...", "日本", "_a", "a\udcff"])
def test_a_new_name_is_one_whatever_the_config_is_called(stem: str) -> None:
    check_name(new_name(stem))


def test_a_refused_start_leaves_an_unfinished_run_as_it_is(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    store = begin(config, "mine", check=check)
    before = (store.folder / "run.json").read_bytes()
    for changes in ({"logging__rotation": "foo"}, {"logging__retention": "foo"}, {"executor__timeout_s": 1e300}):
        with pytest.raises(ConfigError):
            begin(config_of(tmp_path, **changes), "mine", check=check)
    assert (store.folder / "run.json").read_bytes() == before
    assert [path.name for path in store.folder.iterdir()] == ["run.json"]


def test_a_file_where_a_run_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    (tmp_path / "led").symlink_to(tmp_path / "gone")
    for name in ("taken", "led"):
        with pytest.raises(BadInputError, match="it is not a run of zk0"):
            begin(config_of(tmp_path), name, check=check)
    with pytest.raises(BadInputError, match="no run"):
        RunStore.open(tmp_path, "taken")
    with pytest.raises(BadInputError, match="run name"):
        RunStore.open(tmp_path, "a" * 300)
    assert RunStore.list_runs(tmp_path / "taken") == []
