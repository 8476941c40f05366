"""Which rounds are compared, on which frames, and which is the best."""

import math
import typing
from typing import Any

import pytest

from zk0.config import EvaluationConfig
from zk0.metrics.scores import METRICS, Best, Metric, as_quick, best, best_round, comparable, scores

CONFIG: dict[str, Any] = {"clients": [{"name": "a"}, {"name": "b"}], "evaluation": {"datasets": [{"name": "c"}]}}


def line(server_round, mode="full", quick=None, **errors):
    evaluate = {
        name: {
            "action_error_deg": error,
            "loss": error / 10,
            **({"quick": {"action_error_deg": quick}} if quick else {}),
        }
        for name, error in errors.items()
    }
    return {"server_round": server_round, "evaluate": evaluate, "evaluation": mode, "summary": {}}


def config(**evaluation):
    return {**CONFIG, "evaluation": {**CONFIG["evaluation"], **evaluation}}


ROUNDS = [line(0, a=4, b=6, c=9), line(1, a=3, b=5, c=7), line(2, a=1, b=6, c=8), line(3, a=2, b=5, c=6)]


def test_the_config_names_the_metrics_that_there_are():
    assert typing.get_args(EvaluationConfig.model_fields["best_metric"].annotation) == tuple(METRICS)


@pytest.mark.parametrize(
    ("metric", "winner", "value", "label"),
    [
        ("action_error", 2, 3.5, "action error, deg"),
        ("loss", 2, 0.35, "held-out loss"),
        ("unseen_action_error", 3, 6.0, "action error on unseen settings, deg"),
    ],
)
def test_the_best_round_is_that_of_the_metric(metric, winner, value, label):
    found = best_round(config(best_metric=metric), ROUNDS)
    assert found == Best(winner, metric, label, found.value, "full")
    assert found.value == pytest.approx(value)


def test_the_direction_belongs_to_the_metric():
    by_round = {0: 0.2, 1: 0.6, 2: 0.6, 3: 0.5}
    assert best(by_round, Metric("success", "success", higher_is_better=True)) == 1
    assert best(by_round, Metric("error", "error")) == 0


def test_there_is_none_before_an_evaluation_or_of_a_figure_that_is_missing():
    assert best_round(config(), []) is None
    assert best_round(config(best_metric="gripper_error"), ROUNDS) is None
    assert best_round(config(best_metric="luck"), ROUNDS) is None


def rolled_out(server_round, **successes):
    """Of a bench with 10 episodes and a room with 30."""
    episodes = {"bench": 10, "room": 30}
    rollout = {
        name: {"success_rate": number / episodes[name], "episodes": episodes[name]}
        for name, number in successes.items()
    }
    return {**line(server_round, a=4, b=6, c=9), "rollout": rollout}


def test_success_counts_every_episode_once_and_rounds_without_it_do_not_compete():
    rounds = [
        rolled_out(0, bench=5, room=5),
        line(1, "quick", a=1, b=1, c=1),
        rolled_out(2, bench=10, room=5),
        rolled_out(3, bench=5, room=15),
        rolled_out(4, bench=10),
    ]
    of_run = config(best_metric="success_rate", full_every=2, environments=[{"name": "bench"}, {"name": "room"}])
    assert best_round(of_run, rounds) == Best(3, "success_rate", METRICS["success_rate"].label, 0.5, "full")
    values = scores(rounds, METRICS["success_rate"], ["bench", "room"], quick=False)
    assert values == {0: 0.25, 2: 0.375, 3: 0.5}


def test_a_mean_over_other_clients_does_not_count():
    """Round 1 lacks the client with the larger error: its mean would win."""
    rounds = [ROUNDS[0], line(1, a=3.9), line(2, a=4, b=5.9)]
    assert scores(rounds, METRICS["action_error"], ["a", "b"], quick=False) == {0: 5.0, 2: 4.95}
    assert scores([line(0, a=4), line(1, a=3, b=9)], METRICS["action_error"], ["a", "b"], quick=False) == {0: 4, 1: 3}


def test_a_figure_that_is_not_finite_does_not_count():
    assert scores([ROUNDS[0], line(1, a=math.nan, b=1)], METRICS["action_error"], ["a", "b"], quick=False) == {0: 5.0}


def test_quick_and_full_are_never_compared():
    """The quick frames are easier by a degree: what counts is that round 1 is worse on them."""
    base, quick = line(0, quick=3.0, a=4, b=4), line(1, "quick", a=3.5, b=3.5)
    assert best_round(config(full_every=2), [base, quick]) == Best(0, "action_error", "action error, deg", 3.0, "quick")
    lines, frames = comparable([base, quick])
    assert frames == "quick"
    assert [item["evaluate"]["a"]["action_error_deg"] for item in lines] == [3.0, 3.5]
    assert comparable([base, line(2, quick=3, a=2)]) == ([base, line(2, quick=3, a=2)], "full")
    assert as_quick(line(0, a=4))["evaluate"] == {}
