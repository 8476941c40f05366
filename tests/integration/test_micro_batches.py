"""A step from micro-batches teaches what a step from the whole batch teaches: the real tiny SmolVLA and ACT."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from lerobot.utils.random_utils import set_seed
from numpy.typing import NDArray

from zk0.config import RunConfig
from zk0.data.datasets import build_dataset, open_metadata
from zk0.learning import micro_batches, training
from zk0.learning.build import build_policy
from zk0.learning.evaluation import evaluate
from zk0.learning.exchange import exchanged_tensors
from zk0.learning.micro_batches import MicroBatchedPolicy
from zk0.learning.policy import base_path, load_policy_config
from zk0.learning.processors import build_processors

MakeConfig = Callable[..., RunConfig]
pytestmark = pytest.mark.slow
STEPS, BATCH = 4, 6


def fit(config: RunConfig, mu: float = 0.0, micro: int | None = None) -> tuple[dict[str, NDArray[Any]], Any]:
    """Weights and outcome of a few steps; the last frames of episodes, with their padding, are in the batches."""
    dataset = config.clients[0]
    meta = open_metadata(dataset)
    base = load_policy_config(config.policy, base_path(config.policy, Path()))
    set_seed(1)
    built = build_policy(base, config.peft, meta, dataset.rename_map)
    before, _ = build_processors(base, None, dataset.rename_map)
    frames = build_dataset(dataset, meta, built.config, config.data, [0])
    set_seed(2)
    local = training.LocalRound(seed=3, first_step=0, total_steps=20, proximal_mu=mu, micro_batch_size=micro)
    outcome = training.fit(built, before, frames, config.training, local)
    return exchanged_tensors(built), outcome


def distance(one: dict[str, NDArray[Any]], other: dict[str, NDArray[Any]]) -> float:
    """Largest difference of an element."""
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


@pytest.fixture
def config(small_config: MakeConfig) -> RunConfig:
    return small_config(training__steps=STEPS, training__batch_size=BATCH, training__grad_clip_norm=0)


@pytest.mark.parametrize(("micro", "mu"), [(1, 0.0), (2, 0.5), (4, 0.0)])  # 4: the parts are not of one size
def test_the_weights_are_those_of_the_whole_batch(config: RunConfig, micro: int, mu: float) -> None:
    whole, whole_outcome = fit(config, mu)
    state = torch.get_rng_state()
    parts, outcome = fit(config, mu, micro)
    moved = distance(
        whole, fit(config.model_copy(update={"training": config.training.model_copy(update={"steps": 1})}), mu)[0]
    )
    assert distance(whole, parts) < 1e-3 * moved, "must be small beside what the steps changed"
    torch.set_rng_state(state)
    assert outcome.losses == pytest.approx(whole_outcome.losses, rel=1e-4)
    assert outcome.grad_norm == pytest.approx(whole_outcome.grad_norm, rel=1e-3)


def test_the_generators_stand_where_they_would_have(config: RunConfig) -> None:
    """A checkpoint of one micro-batch goes on with another: noise, time and order of the data must not move."""
    fit(config)
    expected = torch.get_rng_state()
    fit(config, micro=2)
    assert torch.equal(torch.get_rng_state(), expected)


def test_in_bf16_too(config: RunConfig) -> None:
    """Its rounding is all that differs: the loss as near, and the gradient to bf16's 8 bits."""
    AcceleratorState._reset_state()
    mixed = config.model_copy(update={"training": config.training.model_copy(update={"amp": "bf16"})})
    try:
        whole, parts = fit(mixed)[1], fit(mixed, micro=2)[1]
    finally:
        AcceleratorState._reset_state()
    assert parts.losses == pytest.approx(whole.losses, rel=1e-3)
    assert parts.grad_norm == pytest.approx(whole.grad_norm, rel=2e-2)


def test_a_wrong_weight_shows(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail: with padding counted as if it were steps, the gradient is another one."""
    whole, _ = fit(config)
    right = distance(whole, fit(config, micro=2)[0])
    monkeypatch.setattr(micro_batches, "MEAN_OVER_VALID", frozenset())
    assert distance(whole, fit(config, micro=2)[0]) > 20 * right


def test_other_noise_shows(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = fit(config)
    right = distance(whole, fit(config, micro=2)[0])
    monkeypatch.setattr(micro_batches, "draw", lambda *_: {})
    assert distance(whole, fit(config, micro=2)[0]) > 20 * right


def test_a_micro_batch_of_the_whole_batch_is_no_other_path(config: RunConfig) -> None:
    whole, _ = fit(config)
    assert distance(whole, fit(config, micro=BATCH)[0]) == 0.0


def test_the_config_key_does_the_same(config: RunConfig) -> None:
    smaller = config.model_copy(update={"training": config.training.model_copy(update={"micro_batch_size": 2})})
    assert distance(fit(smaller)[0], fit(config, micro=2)[0]) == 0.0


def numbers(node: Any) -> list[float]:
    """Figures of nested dicts and lists, by key."""
    items = [node[key] for key in sorted(node)] if isinstance(node, dict) else node
    if isinstance(items, list):
        return [number for item in items for number in numbers(item)]
    return [node] if isinstance(node, int | float) else []


def test_an_evaluation_in_micro_batches_gives_the_same_figures(small_config: MakeConfig) -> None:
    config = small_config(evaluation__frame_stride=8)
    dataset = config.clients[0]
    meta = open_metadata(dataset)
    base = load_policy_config(config.policy, base_path(config.policy, Path()))
    built = build_policy(base, config.peft, meta, dataset.rename_map)
    before, after = build_processors(base, None, dataset.rename_map)
    frames = build_dataset(dataset, meta, built.config, config.data, [0, 1])

    def figures(size: int | None, seed: int = 5) -> dict[str, Any]:
        return evaluate(built, before, after, frames, config.evaluation, seed=seed, micro_batch_size=size)

    whole, parts = figures(None), figures(3)
    assert len(numbers(whole)) > 20
    assert numbers(parts) == pytest.approx(numbers(whole), rel=1e-4)
    assert figures(3, seed=6)["loss"] != pytest.approx(whole["loss"], rel=1e-3), "would show nothing"


class Regression(torch.nn.Module):
    """A policy of one layer, whose gradient is known in closed form; its loss is a mean over frames."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)
        self.config = type("Config", (), {"type": "regression"})()
        self.sizes: list[int] = []

    def forward(self, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
        self.sizes.append(len(batch["action"]))
        loss = (self.layer(batch["observation"]) - batch["action"]).pow(2).mean()
        return loss, {"last": loss.item()}


@pytest.mark.parametrize("size", [1, 2, 5, 7])
def test_gradient_and_loss_of_any_policy(size: int) -> None:
    torch.manual_seed(0)
    whole = Regression()
    parts = MicroBatchedPolicy(copy.deepcopy(whole), size, Accelerator(cpu=True))
    batch: dict[str, Any] = {
        "observation": torch.randn(7, 3),
        "action": torch.randn(7, 2),
        "task": list("abcdefg"),
        "scalar": 3,
    }
    expected, _ = whole.forward(batch)
    expected.backward()
    loss, outputs = parts.forward(batch)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(parts.policy.layer.weight.grad, whole.layer.weight.grad)
    assert outputs is not None
    assert parts.policy.sizes == [size] * (7 // size) + ([7 % size] if 7 % size else [])
    assert len(batch["action"]) == 7, "the caller's batch was changed"
