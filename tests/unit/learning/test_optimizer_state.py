"""zk0.learning.optimizer_state: an optimizer that is put away and taken up again goes on as if nothing had been."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from zk0.errors import PolicyError
from zk0.files import atomic
from zk0.learning import optimizer_state

Make = Callable[..., torch.optim.Optimizer]


def net(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    first = nn.Conv2d(3, 4, 3)
    first.weight.data = first.weight.data.to(memory_format=torch.channels_last)
    made = nn.Sequential(first, nn.Flatten(), nn.Linear(4, 2))
    return made.to(dtype)


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        torch.manual_seed(step)
        frames = torch.randn(5, 3, 3, 3, dtype=next(model.parameters()).dtype)
        model(frames).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
        lambda parameters: torch.optim.Adam(parameters, lr=0.01, amsgrad=True),
        lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
        lambda parameters: torch.optim.SGD(parameters, lr=0.01),  # its state holds None
    ],
    ids=["adamw", "amsgrad", "momentum", "sgd"],
)
def test_it_goes_on_bit_for_bit(make: Make, dtype: torch.dtype, tmp_path: Path) -> None:
    whole = net(dtype)
    steps(whole, make(whole.parameters()), 0, 6)

    model = net(dtype)
    first = make(model.parameters())
    steps(model, first, 0, 3)
    atomic.write_tensors(tmp_path / "optimizer.safetensors", optimizer_state.to_arrays(first))
    second = make(model.parameters())
    optimizer_state.from_arrays(second, atomic.read_tensors(tmp_path / "optimizer.safetensors"))
    steps(model, second, 3, 6)
    assert all(torch.equal(one, other) for one, other in zip(whole.parameters(), model.parameters(), strict=True))


def test_the_learning_rate_and_options_stay_those_of_the_new_fit() -> None:
    model = net(torch.float32)
    first = torch.optim.AdamW(model.parameters(), lr=0.01, betas=(0.5, 0.6))
    steps(model, first, 0, 2)
    second = torch.optim.AdamW(model.parameters(), lr=0.5, betas=(0.7, 0.8))
    optimizer_state.from_arrays(second, optimizer_state.to_arrays(first))
    assert (second.param_groups[0]["lr"], second.param_groups[0]["betas"]) == (0.5, (0.7, 0.8))
    parameter = second.param_groups[0]["params"][0]
    assert second.state[parameter]["step"] == 2
    assert torch.equal(second.state[parameter]["exp_avg"], first.state[parameter]["exp_avg"])


def test_what_no_file_can_hold_is_refused() -> None:
    model = net(torch.float32)
    optimizer = torch.optim.LBFGS(model.parameters())
    optimizer.step(lambda: model(torch.ones(1, 3, 3, 3)).pow(2).mean())
    with pytest.raises(PolicyError, match=r"optimizer_state = 'keep': LBFGS keeps '0\..*; use 'fresh'"):
        optimizer_state.to_arrays(optimizer)
