"""What travels of a policy, and a run that an earlier zk0 began, whose global tensors lack what no gradient makes."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from tests.unit.aggregation.made import NAMES, make_config, result
from zk0.aggregation.carried import is_state
from zk0.aggregation.server_round import ServerRound
from zk0.errors import PolicyError
from zk0.files import atomic
from zk0.learning.exchange import exchanged_tensors, load_exchanged_tensors, update_tensors


def made(seed: int) -> Any:
    """A policy with batch normalisation, after a few batches."""
    torch.manual_seed(seed)
    policy = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    for _ in range(seed):
        policy(torch.randn(8, 4))
    return policy


def as_before(policy: Any) -> dict[str, Any]:
    """The global tensors as an earlier zk0 made them: trained parameters alone."""
    return {name: value for name, value in exchanged_tensors(policy).items() if not is_state(name)}


def test_a_run_that_an_earlier_zk0_began_goes_on_without_what_it_left_with_the_base(tmp_path: Path) -> None:
    config = make_config(2, min_train_clients=2)
    first = as_before(made(1))
    atomic.write_tensors(tmp_path / "global.safetensors", first)
    results = []
    for place, client in enumerate(NAMES[:2]):
        policy, own = made(2), made(2)
        load_exchanged_tensors(policy, first)
        base = cast("nn.BatchNorm1d", own[1]).running_mean
        assert torch.equal(policy[1].running_mean, base), "it stays as the base has it"
        assert np.array_equal(exchanged_tensors(policy)["0.weight"], first["0.weight"])
        with torch.no_grad():
            policy[0].weight += place + 1
        policy(torch.randn(8, 4))  # moves the means, which nobody sends in such a run
        update = update_tensors(policy, config, first.keys())
        assert update.keys() == first.keys()
        results.append(result(tmp_path, client, update))
    found = ServerRound(config, 1, tmp_path / "global.safetensors").aggregate(results, tmp_path)
    assert found.tensors.keys() == first.keys()
    np.testing.assert_allclose(found.tensors["0.weight"], first["0.weight"] + 1.5, rtol=1e-6)
    load_exchanged_tensors(made(3), found.tensors)


def test_a_run_of_today_sends_all_of_it() -> None:
    first = exchanged_tensors(made(1))
    assert {name for name in first if is_state(name)} == {
        f"state:1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")
    }
    load_exchanged_tensors(policy := made(2), first)
    assert torch.equal(policy[1].running_mean, made(1)[1].running_mean)
    assert update_tensors(policy, make_config(1, min_train_clients=1), first.keys()).keys() == first.keys()


def test_a_parameter_that_is_missing_is_refused_all_the_same() -> None:
    first = as_before(made(1))
    del first["0.weight"]
    with pytest.raises(PolicyError, match=r"do not fit the policy: '0\.weight'"):
        load_exchanged_tensors(made(1), first)
