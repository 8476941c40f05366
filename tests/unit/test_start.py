"""zk0.federation.start and zk0.runs.origin: which run a start means, and where it begins."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.service import small_run
from zk0.config import RunConfig, validate_config
from zk0.errors import ConfigError
from zk0.federation.start import new_run, unfinished
from zk0.memory import client_limits
from zk0.memory.estimate import MemoryEstimate
from zk0.preflight.records import Preflight
from zk0.runs.origin import origin_tensors, settle_origin
from zk0.runs.store import RunStore, is_finished

TENSORS = {"lora_A": np.ones((2, 3), np.float32)}


def config_of(outputs: Path, **changes: object) -> RunConfig:
    return validate_config(small_run(outputs, **changes))


def committed(config: RunConfig, name: str, rounds: int) -> RunStore:
    store = RunStore.create_or_open(config, name)
    for number in range(rounds + 1):
        store.commit(number, arrays=TENSORS, strategy_tensors={}, strategy_scalars={}, metrics={})
    return store


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
    store = new_run(
        config, "small", "sim", lambda config: check(config).model_copy(update={"memory": estimate(budget)})
    )
    for client in config.clients:
        known = client_limits.read(store.folder, client.name, "train")
        assert (known and known.micro_batch_size) == size
        if known is not None:
            assert "estimate before the run: needs 2.54 GiB" in known.notes[0].figures


def test_a_run_that_cannot_fit_is_refused_and_nothing_is_created(tmp_path: Path) -> None:
    config = config_of(tmp_path / "outputs", training__batch_size=16)
    with pytest.raises(ConfigError, match=r"needs about 1.07 GiB even with one frame .* may use 1.07 GiB of this"):
        new_run(config, "none", "sim", lambda config: check(config).model_copy(update={"memory": estimate(1099)}))
    assert not (tmp_path / "outputs").exists()


def test_latest_is_settled_to_the_newest_run_that_has_trained(tmp_path: Path) -> None:
    committed(config_of(tmp_path), "old", 2)
    committed(config_of(tmp_path, seed=8), "new", 1)
    committed(config_of(tmp_path, seed=9), "untrained", 0)
    committed(config_of(tmp_path, peft__r=2), "other-kind", 2)
    settled = settle_origin(config_of(tmp_path, continue_from="latest"), "next")
    assert settled.continue_from == "new@1"
    store, ref = origin_tensors(settled)
    assert store.info.name == "new"
    assert store.path(ref).is_file()


def test_latest_without_any_run_is_the_base(tmp_path: Path) -> None:
    assert settle_origin(config_of(tmp_path, continue_from="latest"), "first").continue_from is None


def test_the_origin_is_part_of_the_digest(tmp_path: Path) -> None:
    assert config_of(tmp_path).digest != config_of(tmp_path, continue_from="old@1").digest


@pytest.mark.parametrize(
    ("wanted", "said"),
    [("missing", "runs there: old"), ("old@7", "committed and kept: 0, 1, 2"), ("Not a name", "pattern")],
)
def test_an_origin_that_is_not_there_is_refused(tmp_path: Path, wanted: str, said: str) -> None:
    committed(config_of(tmp_path), "old", 2)
    with pytest.raises(ConfigError, match=said):
        settle_origin(config_of(tmp_path, continue_from=wanted), "next")


def test_a_damaged_origin_is_named(tmp_path: Path) -> None:
    store = committed(config_of(tmp_path), "old", 1)
    settled = settle_origin(config_of(tmp_path, continue_from="old"), "next")
    (store.round_folder(1) / "global.safetensors").write_bytes(b"no")
    with pytest.raises(ConfigError, match=r"continue_from = 'old@1': .*global\.safetensors"):
        origin_tensors(settled)


def test_an_unfinished_run_goes_on_from_where_it_was_settled_to_begin(tmp_path: Path) -> None:
    finished = committed(config_of(tmp_path), "old", 2)
    (finished.folder / "final").mkdir()
    assert is_finished(finished)
    wanted = config_of(tmp_path, continue_from="latest")
    first = new_run(wanted, None, "nightly", check)
    committed(config_of(tmp_path, seed=8), "newer", 2)
    assert first.config.continue_from == "old@2"
    assert unfinished(wanted) is not None
    assert new_run(wanted, None, "nightly", check).info == first.info
    assert new_run(wanted, first.info.name, "nightly", check).info == first.info


def test_a_run_stopped_by_hand_says_so_until_it_goes_on(tmp_path: Path) -> None:
    store = committed(config_of(tmp_path), "mine", 1)
    store.mark_stopped()
    assert RunStore.open(store.folder).stopped
    with store.lock():
        assert not store.stopped


def test_a_run_may_aggregate_its_adapters_otherwise_than_its_origin(tmp_path: Path) -> None:
    """They exchange the same tensors."""
    committed(config_of(tmp_path), "first", 1)
    config = config_of(tmp_path, continue_from="first", peft__aggregation="ffa")
    assert settle_origin(config, "second").continue_from == "first@1"
    with pytest.raises(ConfigError, match=r"peft.r is 4 there, 2 here"):
        settle_origin(config_of(tmp_path, continue_from="first", peft__r=2), "second")


@pytest.mark.parametrize("strategy", ["fedavgm", "fedadam", "fedyogi"])
def test_the_disk_must_have_room_for_a_strategys_state(tmp_path: Path, strategy: str) -> None:
    """Two more sets of tensors for each kept round: 6 x (1 + 2 clients) + 6 x 2 at work are 30, with them 42."""
    free = shutil.disk_usage(tmp_path).free
    size = free // 36

    def large(config: RunConfig) -> Preflight:
        return Preflight(config=config, frames={}, exchanged_bytes=size)

    new_run(config_of(tmp_path), "plain", "sim", large)
    with pytest.raises(ConfigError, match="free some space"):
        new_run(config_of(tmp_path, federation__strategy=strategy), "stateful", "sim", large)
