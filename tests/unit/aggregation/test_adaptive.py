"""The adaptive schedules against torch, and against courses that can be followed by hand."""

import hashlib
import random
from typing import Any

import pytest
import torch

from benchmarks.service import small_run
from zk0.aggregation.adaptive import active, boosted_steps, decide, dynamic_mu, plateau
from zk0.config import validate_config
from zk0.metrics.scores import METRICS, Metric
from zk0.runs.store import RunStore

ERROR = METRICS["action_error"]


@pytest.mark.parametrize("patience", [0, 1, 3])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_plateau_is_what_torch_takes_for_one(patience, mode):
    metric = Metric("x", "x", higher_is_better=mode == "max")
    for seed in range(20):
        numbers = random.Random(seed)
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode, factor=0.5, patience=patience, eps=0.0)
        values = []
        for _ in range(25):
            values.append(round(numbers.uniform(1, 4), 1))  # with equal ones among them
            scheduler.step(values[-1])
            assert plateau(values, metric, patience, 0.5) == optimizer.param_groups[0]["lr"], values


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([], 0.5),
        ([3.0], 0.5),
        ([3.0, 3.1], 0.6),
        ([3.0, 3.1, 3.2, 3.0], 0.7),
        ([3.0, 2.9, 2.8, 2.7, 2.6], 0.5),
        ([3.0, 2.9, 2.8, 2.7, 2.6, 2.5], 0.4),
        ([3.0, 2.9, 2.8, 2.7, 2.7, 2.6, 2.5], 0.5),
        ([float(-loss) for loss in range(11)], 0.3),
        ([float(-loss) for loss in range(100)], 0.0),
    ],
)
def test_mu_follows_the_loss_as_in_fedprox(losses, expected):
    assert dynamic_mu(losses, 0.5, 0.1, 5) == pytest.approx(expected)


def test_a_client_that_lags_behind_takes_more_steps():
    errors = {"a": 2.0, "b": 2.0, "c": 3.5, "d": 12.5}  # mean 5
    usual = dict.fromkeys(errors, 20)
    assert boosted_steps(errors, usual, 3.0) == {"a": 20, "b": 20, "c": 20, "d": 50}
    assert boosted_steps(errors, usual | {"d": 10}, 1.5)["d"] == 15
    assert boosted_steps(errors, usual, 1.0) == usual
    assert boosted_steps({"a": 0.0, "b": 0.0}, usual, 2.0) == {"a": 20, "b": 20}
    assert boosted_steps({}, usual, 2.0) == {}


ON = {"plateau_patience": 1, "plateau_factor": 0.1, "boost_max": 2.0, "mu_step": 0.1, "mu_patience": 2}


@pytest.fixture
def config(tmp_path):
    data = small_run(tmp_path, adaptive=ON, federation__strategy="fedprox", federation__proximal_mu=0.2)
    return validate_config(data)


def line(server_round, kitchen, workshop):
    figures = {"kitchen": kitchen, "workshop": workshop}
    evaluate = {name: {"action_error_deg": error, "loss": error / 2} for name, error in figures.items()}
    return {"server_round": server_round, "evaluate": evaluate, "evaluation": "full"}


ROUNDS = [
    line(0, 4.0, 4.0),
    line(1, 3.0, 3.0),
    line(2, 3.0, 9.0),
    line(3, 3.5, 3.5),
    line(4, 3.4, 3.4),
    line(5, 3.3, 3.3),
]


def test_each_decision_comes_with_its_reason(config):
    first = decide(config, ROUNDS, 1)
    assert (first.lr_scale, first.proximal_mu, first.steps) == (1.0, 0.2, {"kitchen": 2, "workshop": 2})
    assert first.changes == []
    third = decide(config, ROUNDS, 3)
    assert (third.lr_scale, third.steps) == (1.0, {"kitchen": 2, "workshop": 3})
    assert third.proximal_mu == pytest.approx(0.3)
    assert [change.split(":")[0] for change in third.changes] == ["mu 0.3 (0.2 before)", "workshop"]
    fourth = decide(config, ROUNDS, 4)
    assert fourth.lr_scale == 0.1
    assert fourth.changes[0] == (
        "learning rate x 0.1 (x 1 before): for 2 rounds action_error was not better than round 1's 3"
    )
    fifth = decide(config, ROUNDS, 5)
    assert fifth.proximal_mu == pytest.approx(0.2), "the loss fell in rounds 3 and 4"
    assert "the held-out loss fell 2 times running" in fifth.changes[0]


def test_what_was_decided_is_part_of_the_works_identity(tmp_path):
    """And where nothing was, finished work of before there were schedules is found again."""
    store = RunStore.create_or_open(validate_config(small_run(tmp_path)), "key")
    work = store.task("train", 1, "kitchen")
    parts = [work.run_id, work.config_digest, "train", "1", "kitchen", "-", "-", "0.0"]
    assert work.key == hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
    adapted: list[dict[str, Any]] = [{"lr_scale": 0.5}, {"steps": 3}, {"steps": 4}, {"lr_scale": 0.5, "steps": 3}]
    assert len({work.key, *(work.model_copy(update=item).key for item in adapted)}) == 5


def test_only_the_rounds_before_are_looked_at(config):
    for number in range(1, 7):
        assert decide(config, ROUNDS, number) == decide(config, ROUNDS[:number], number)


def test_without_any_schedule_nothing_changes(tmp_path):
    plain = validate_config(small_run(tmp_path))
    assert not active(plain.adaptive)
    for number in range(1, 7):
        decision = decide(plain, ROUNDS, number)
        assert (decision.lr_scale, decision.proximal_mu, set(decision.steps.values())) == (1.0, 0.0, {2})


@pytest.mark.parametrize("key", ["plateau_patience", "boost_max", "mu_step"])
def test_each_schedule_alone_acts_alone(tmp_path, key):
    data = small_run(tmp_path, adaptive={key: ON[key]}, federation__strategy="fedprox")
    alone = validate_config(data)
    assert active(alone.adaptive)
    decision = [decide(alone, ROUNDS, number) for number in range(1, 7)]
    assert (min(item.lr_scale for item in decision) < 1) == (key == "plateau_patience")
    assert (max(item.proximal_mu for item in decision) > 0) == (key == "mu_step")
    assert (max(item.steps["workshop"] for item in decision) > 2) == (key == "boost_max")


def test_quick_rounds_are_judged_by_the_quick_frames(tmp_path):
    """On all frames round 0 had 4; a quick round with 3.9 is no better where the quick frames had 3 in round 0."""
    plain = validate_config(small_run(tmp_path, adaptive={"plateau_patience": 0}, evaluation__full_every=0))
    base, quick = line(0, 4.0, 4.0), {**line(1, 3.9, 3.9), "evaluation": "quick"}
    for figures in base["evaluate"].values():
        figures["quick"] = {"action_error_deg": 3.0, "loss": 1.5}
    assert decide(plain, [base, quick], 2).lr_scale == 0.5
