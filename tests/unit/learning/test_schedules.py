"""zk0.learning.schedules: the learning rate at every step of a run, whatever round the step is in."""

import math
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from zk0.config import TrainingConfig
from zk0.learning.schedules import go_to, scheduler_config

PEAK, TOTAL = 0.1, 40


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], lr=PEAK)


def rates(until: int = TOTAL, first: int = 0, **keys: Any) -> list[float]:
    """The rate of the steps first, first + 1, ... until - 1, of a fit that begins there."""
    made = optimizer()
    schedule = scheduler_config(TrainingConfig(**keys), None, PEAK, TOTAL)
    assert schedule is not None
    scheduler = schedule.build(made, TOTAL)
    go_to(scheduler, made, first)
    found = []
    for _ in range(first, until):
        found.append(made.param_groups[0]["lr"])
        made.step()
        scheduler.step()
    return found


SCHEDULES: list[dict[str, Any]] = [
    {"scheduler": "constant", "warmup_steps": 4},
    {"scheduler": "cosine", "warmup_steps": 4, "decay_lr": 0.01},
    {"scheduler": "cosine_warm_restarts", "warmup_steps": 4, "decay_lr": 0.01, "restart_steps": 7},
]


@pytest.mark.parametrize("keys", SCHEDULES, ids=lambda keys: keys["scheduler"])
def test_a_round_goes_on_where_the_one_before_ended(keys: dict[str, Any]) -> None:
    """Bit for bit: begun at any step, the rates are those of a fit that did all steps."""
    whole = rates(**keys)
    for first in (1, 3, 4, 5, 11, 12, TOTAL - 1):
        assert rates(first=first, **keys) == whole[first:]


@pytest.mark.parametrize("keys", SCHEDULES, ids=lambda keys: keys["scheduler"])
def test_the_rate_rises_to_its_peak_in_the_warm_up(keys: dict[str, Any]) -> None:
    found = rates(**keys)
    assert found[:4] == sorted(found[:4])
    assert len(set(found[:5])) == 5
    assert max(found) == pytest.approx(PEAK, rel=0.03)  # LeRobot's cosine counts the warm-up's steps, too
    assert found[4] == max(found)


def test_the_cosine_ends_at_its_floor_with_the_run() -> None:
    found = rates(TOTAL + 3, scheduler="cosine", decay_lr=0.01)
    for step in range(TOTAL):
        cosine = (1 + math.cos(math.pi * step / TOTAL)) / 2
        assert found[step] == pytest.approx(0.01 + (PEAK - 0.01) * cosine)
    assert found[TOTAL:] == pytest.approx([0.01] * 3)


@pytest.mark.parametrize("warm_up", [0, 5])
def test_warm_restarts_are_torchs(warm_up: int) -> None:
    made = optimizer()
    theirs = CosineAnnealingWarmRestarts(made, T_0=7, eta_min=0.01)
    expected = []
    for _ in range(TOTAL - warm_up):
        expected.append(made.param_groups[0]["lr"])
        made.step()
        theirs.step()
    ours = rates(scheduler="cosine_warm_restarts", restart_steps=7, decay_lr=0.01, warmup_steps=warm_up)
    assert ours[warm_up:] == pytest.approx(expected)
    assert ours[:warm_up] == pytest.approx([PEAK * (step + 1) / (warm_up + 1) for step in range(warm_up)])


def test_a_constant_rate_without_warm_up_needs_no_schedule() -> None:
    assert scheduler_config(TrainingConfig(scheduler="constant"), None, PEAK, TOTAL) is None
