"""Which round a run goes on from, settled once."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.service import small_run
from zk0.config import RunConfig, validate_config
from zk0.errors import ConfigError
from zk0.runs.origin import origin_tensors, settle_origin
from zk0.runs.store import RunStore

TENSORS = {"lora_A": np.ones((2, 3), np.float32)}


def config_of(outputs: Path, **changes: object) -> RunConfig:
    return validate_config(small_run(outputs, **changes))


def committed(config: RunConfig, name: str, rounds: int) -> RunStore:
    store = RunStore.create_or_open(config, name)
    for number in range(rounds + 1):
        store.commit(number, arrays=TENSORS, strategy_tensors={}, strategy_scalars={}, metrics={})
    return store


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


def test_a_run_may_aggregate_its_adapters_otherwise_than_its_origin(tmp_path: Path) -> None:
    """They exchange the same tensors."""
    committed(config_of(tmp_path), "first", 1)
    config = config_of(tmp_path, continue_from="first", peft__aggregation="ffa")
    assert settle_origin(config, "second").continue_from == "first@1"
    with pytest.raises(ConfigError, match=r"peft.r is 4 there, 2 here"):
        settle_origin(config_of(tmp_path, continue_from="first", peft__r=2), "second")
