"""Bootstrap intervals against resampling written out, and against what can be told by hand."""

import itertools

import numpy as np
import pytest

from zk0.metrics.intervals import Episodes, changes, mean_interval, of_round

GENERATOR = np.random.default_rng(3)
MANY = Episodes([int(steps) for steps in GENERATOR.integers(5, 60, 12)], GENERATOR.lognormal(1, 0.5, 12).tolist())
OTHER = Episodes([10] * 8, GENERATOR.normal(20, 3, 8).tolist())


def resampled(item, times=20_000, seed=99):
    """Means of resamples of whole episodes, each counting by its steps; numpy alone."""
    steps, errors = np.array(item.steps, float), np.array(item.errors)
    chosen = np.random.default_rng(seed).integers(0, len(errors), (times, len(errors)))
    return (steps[chosen] * errors[chosen]).sum(1) / steps[chosen].sum(1)


def test_it_is_the_percentile_bootstrap_over_episodes_that_count_by_their_steps():
    expected = np.quantile(resampled(MANY), (0.025, 0.975))
    width = expected[1] - expected[0]
    np.testing.assert_allclose(mean_interval([MANY], 1), expected, atol=0.05 * width)
    unweighted = np.quantile(resampled(Episodes([1] * 12, MANY.errors)), (0.025, 0.975))
    assert np.abs(expected - unweighted).max() > 0.05 * width, "would not show a mean without weights"


def test_of_three_episodes_it_is_from_the_least_to_the_largest():
    """One resample in 27 is the least episode three times over: more than 2.5 %."""
    means = [np.mean(chosen) for chosen in itertools.product((1.0, 2.0, 6.0), repeat=3)]
    assert np.quantile(means, (0.025, 0.975), method="inverted_cdf").tolist() == [1.0, 6.0]
    assert mean_interval([Episodes([5, 5, 5], [1.0, 2.0, 6.0])], 1) == [1.0, 6.0]


def test_a_mean_over_datasets_resamples_each_by_itself():
    expected = np.quantile((resampled(MANY, seed=1) + resampled(OTHER, seed=2)) / 2, (0.025, 0.975))
    found = mean_interval([MANY, OTHER], 1)
    np.testing.assert_allclose(found, expected, atol=0.05 * (expected[1] - expected[0]))
    assert found == mean_interval([MANY, OTHER], 1)


@pytest.mark.parametrize("datasets", [[], [Episodes([5], [1.0])], [MANY, Episodes([5], [1.0])], [Episodes([5, 5], [])]])
def test_where_an_episode_cannot_differ_there_is_none(datasets):
    assert mean_interval(datasets, 1) is None


def figures(shift=0.0, **more):
    errors = [error + shift for error in MANY.errors]
    episodes = {"steps": MANY.steps, "action_error_deg": errors, "gripper_error": None}
    return {"episodes": episodes, "action_error_deg": float(np.average(errors, weights=MANY.steps)), **more}


def test_a_change_is_paired():
    """Every episode is better by half a degree: beyond doubt, though the two errors' own intervals overlap."""
    base, now = {"kitchen": figures(), "attic": figures()}, {"kitchen": figures(-0.5), "attic": figures(1.0)}
    found = changes(base, now, ["kitchen"], 1)
    assert found["datasets"]["kitchen"]["action_error_deg"]["mean"] == pytest.approx(-0.5)
    np.testing.assert_allclose(found["datasets"]["kitchen"]["action_error_deg"]["interval_95"], [-0.5, -0.5])
    low, high = found["datasets"]["kitchen"]["action_error_deg"]["relative_interval_95"]
    expected = np.quantile(-0.5 / resampled(MANY), (0.025, 0.975))
    np.testing.assert_allclose([low, high], expected, atol=0.05 * (expected[1] - expected[0]))
    assert found["datasets"]["kitchen"]["gripper_error"] is None
    assert found["clients"]["action_error_deg"]["mean"] == pytest.approx(-0.5), "the attic is no client"
    own = [of_round(None, item, ["kitchen"], 1)["interval_95"] for item in (base, now)]
    assert own[1]["action_error_deg"][1] > own[0]["action_error_deg"][0]
    assert own[1]["unseen_action_error_deg"] == mean_interval(
        [Episodes(MANY.steps, figures(1.0)["episodes"]["action_error_deg"])], 1
    )


def test_figures_of_other_frames_are_not_compared():
    other = figures()
    other["episodes"] = {**other["episodes"], "steps": [steps + 1 for steps in MANY.steps]}
    assert changes({"kitchen": figures()}, {"kitchen": other, "new": figures()}, ["kitchen"], 1) == {
        "datasets": {},
        "clients": {"action_error_deg": None, "gripper_error": None},
    }
