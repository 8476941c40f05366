"""Datasets beside one another: what is warned of, and that nothing else is; by the statistics alone."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from zk0.config import RunConfig, validate_config
from zk0.data.findings import DataFinding
from zk0.preflight.between import compare
from zk0.preflight.ranges import ranges_of
from zk0.preflight.recordings import repeated_episodes, rows_of, shared_episodes
from zk0.preflight.records import Traits

STATE, ACTION = "observation.state", "action"
FRONT = "observation.images.front"
SO101 = ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"]
LOW = np.array([-40.0, -90, -25, 35, -10, 0])
HIGH = np.array([0.0, 25, 90, 95, 20, 60])
"""Where the shipped rooms' arms are, in degrees."""
Values = NDArray[np.float64]


def recorded(seed: int, rows: int = 300) -> Values:
    """An arm's way from its rest to some place and back, several times, never the same twice; shape (rows, joints)."""
    rng = np.random.default_rng(seed)
    time = np.linspace(0, 6 * np.pi, rows)[:, None] + rng.normal(0, 0.3, 6)
    reach = rng.uniform(0.7, 1, 6)
    return LOW + (HIGH - LOW) * reach * (1 - np.cos(time)) / 2 + rng.normal(0, 0.2, (rows, 6))


def traits(values: Values, *, action: Values | None = None, **changes: Any) -> Traits:
    """Of a recording of ten episodes whose actions are the states a little later."""
    acted = values + 0.5 if action is None else action
    episodes = np.repeat(np.arange(10), len(values) // 10)
    names = SO101 if values.shape[1] == 6 else [f"joint_{place}" for place in range(values.shape[1])]
    known: dict[str, Any] = {
        "fps": 25.0,
        "robot_type": "so101_follower",
        "cameras": {FRONT: [64, 64, 3]},
        "joints": {STATE: names, ACTION: names},
        "ranges": {STATE: ranges_of(values), ACTION: ranges_of(acted)},
        "rows": rows_of([values, acted], episodes),
    }
    return Traits(**known | changes)


def run_of(clients: list[str], unseen: list[str] | None = None, **data: Any) -> RunConfig:
    def named(names: list[str]) -> list[dict[str, Any]]:
        return [{"name": name, "repo_id": f"me/{name}"} for name in names]

    evaluation = {"datasets": named(unseen or [])}
    return validate_config(
        {"clients": named(clients), "policy": {"path": "asset:base"}, "evaluation": evaluation, "data": data}
    )


def found(others: dict[str, Traits], unseen: list[str] | None = None, **data: Any) -> list[DataFinding]:
    """What is not well."""
    clients = [name for name in others if name not in (unseen or [])]
    return [item for item in compare(run_of(clients, unseen, **data), others) if item.verdict != "ok"]


PLAIN = {"one": traits(recorded(1)), "two": traits(recorded(2)), "three": traits(recorded(3))}


def in_radians(values: Values) -> Values:
    return np.concatenate([np.radians(values[:, :5]), values[:, 5:]], axis=1)


def turned(places: list[int], by: float) -> Values:
    values = recorded(4)
    values[:, places] += by
    return values


def normalised(values: Values, *, clipped: bool = False) -> Values:
    """As LeRobot does without degrees: -100 to 100 from end to end."""
    low, high = values[:, :5].min(axis=0), values[:, :5].max(axis=0)
    arm = (values[:, :5] - low) / (high - low) * 200 - 100
    return np.concatenate([np.clip(1.1 * arm, -100, 100) if clipped else arm, values[:, 5:]], axis=1)


def gripper(values: Values, scale: float) -> Values:
    return np.concatenate([values[:, :5], values[:, 5:] * scale], axis=1)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (in_radians(recorded(4)), ["radians beside degrees?", "shoulder_pan (observation.state) goes from -0.7"]),
        (np.radians(recorded(4)), ["radians beside degrees?"]),
        (recorded(4) / 180, ["another unit: 1/1"]),
        (recorded(4) * 4096 / 360, ["another unit: 11"]),
        (recorded(4) * 1000, ["another unit: "]),
        (turned([0, 1, 2, 3, 4], 90), ["a calibration off by 90 degrees?", "lift, elbow_flex, wrist_flex and 1 more"]),
        (turned([1], -90), ["a calibration off by 90 degrees?", "shoulder_lift"]),
        (turned([1, 2], 180), ["a calibration off by 180 degrees?"]),
        (normalised(recorded(4)), ["-100 to 100 of each joint's range beside degrees?"]),
        (gripper(recorded(4), 0.01), ["another unit of the gripper: 1/", "gripper (observation.state)"]),
    ],
)
def test_other_units_and_calibrations_are_warned_of(values: Values, words: list[str]) -> None:
    """Of the dataset that differs from the others, whichever place it has, and with the ranges of both."""
    for names in (["odd", "one", "two", "three"], ["one", "two", "odd"], ["one", "odd"]):
        others = {name: PLAIN.get(name) or traits(values) for name in names}
        warnings = found(others)
        odd = "odd" if len(names) > 2 else names[1]
        assert [(item.dataset, item.check, item.verdict) for item in warnings] == [(odd, "ranges", "warning")]
        assert "data.normalization = 'own'" in warnings[0].remedy
        if odd == "odd":
            assert all(word in warnings[0].seen for word in [*words, "that of client 'one' from"]), warnings[0].seen


def test_a_unit_may_differ_in_the_actions_alone() -> None:
    odd = traits(recorded(4), action=in_radians(recorded(4)))
    (warning,) = found({**PLAIN, "odd": odd})
    assert "shoulder_pan (action)" in warning.seen
    assert "radians beside degrees" in warning.seen


def test_radians_are_compared_as_radians() -> None:
    others = {name: traits(in_radians(recorded(seed))) for seed, name in enumerate(("one", "two"))}
    assert found(others, unit="rad") == []
    (warning,) = found({**others, "odd": traits(in_radians(turned([1, 2], 90)))}, unit="rad")
    assert "off by 90 degrees" in warning.seen


def moved(low: float, high: float, seed: int = 5) -> Values:
    """All joints between the two."""
    values = recorded(seed)
    least, most = values.min(axis=0), values.max(axis=0)
    return low + (values - least) / (most - least) * (high - low)


@pytest.mark.parametrize(
    "values",
    [
        recorded(4) + np.array([60, 0, 0, 0, 0, 0]),
        recorded(4) + np.array([90, 0, 0, 0, 0, 0]),
        recorded(4) + np.array([0, 0, 0, 0, 90, 0]),
        recorded(4) + np.array([-50, 30, -40, 20, 70, 0]),
        recorded(4) * 0.5 + 20,
        recorded(4) * 0.1,
        recorded(4) * 0.02 + np.array([-20, -40, 40, 60, 0, 30]),
        recorded(4) * np.array([1, 1, 1, 1, 0.01, 0]),
        recorded(4) * np.array([1, 1, 1, 1, 1, 0.3]),
        np.repeat(recorded(4)[:1], 300, axis=0),
        np.concatenate([np.repeat(LOW[None], 200, axis=0), recorded(4)[:100]]),
        moved(-80, 80),
        moved(-95, 90),
        moved(20, 60),
    ],
)
def test_robots_that_move_elsewhere_less_or_more_are_fine(values: Values) -> None:
    assert [item for item in found({**PLAIN, "odd": traits(values)}) if item.check == "ranges"] == []


def test_clipped_ends_beside_joints_that_go_further_are_normalised() -> None:
    """As real recordings are: few joints come to their ends, and there they are clipped."""
    rest = np.repeat(np.array([[0.0, -100, 100, 75, 0, 2]]), 60, axis=0)
    mine = np.concatenate([rest, np.clip(recorded(4)[60:], -99, 99)])
    far = recorded(1) + np.array([0, 0, 0, 40, 0, 0])
    assert "-100 to 100" in found({"one": traits(far), "odd": traits(mine)})[0].seen
    assert found({"one": PLAIN["one"], "odd": traits(mine)}) == [], "where all stay within 100 nothing says so"


def test_rates_and_cameras() -> None:
    (warning,) = found({**PLAIN, "odd": traits(recorded(4), fps=10.0)})
    assert (warning.dataset, warning.check) == ("odd", "frame rate")
    assert warning.seen == "10 frames a second, client 'one' has 25: a chunk of actions lasts 2.5 times as long"
    (warning,) = found(
        {**PLAIN, "odd": traits(recorded(4), cameras={FRONT: [64, 64, 3], "observation.images.x": [64, 64, 3]})}
    )
    assert "has the cameras observation.images.front, observation.images.x; client 'one' has" in warning.seen
    (warning,) = found({**PLAIN, "odd": traits(recorded(4), cameras={FRONT: [480, 640, 3]})})
    assert "of another format" in warning.seen
    assert found({**PLAIN, "odd": traits(recorded(4), cameras={FRONT: [3, 128, 128]})}) == [], "another size is none"
    renamed = run_of(["one", "odd"]).model_dump(mode="json")
    renamed["clients"][1]["rename_map"] = {"observation.images.top": FRONT}
    others = {"one": PLAIN["one"], "odd": traits(recorded(4), cameras={"observation.images.top": [64, 64, 3]})}
    assert {item.verdict for item in compare(validate_config(renamed), others)} == {"ok"}


def test_units_that_are_known_to_differ_have_no_mean() -> None:
    humanoid = ["kLeftShoulderPitch", "kLeftElbow", "kLeftWristYaw", "kLeftWristRoll", "kWaistYaw", "kLeftHand"]
    joints = {STATE: humanoid, ACTION: humanoid}
    warnings = found({**PLAIN, "odd": traits(recorded(4), joints=joints, robot_type="unitree_g1")})
    assert [(item.dataset, item.check) for item in warnings] == [("odd", "units")]
    assert "in rad, those of client 'one' in deg: there is no mean" in warnings[0].seen
    assert found({**PLAIN, "odd": traits(recorded(4), joints=joints)}, unit="deg") == []


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            {"unit": {"shoulder_pam": "rad"}},
            "data.unit names 'shoulder_pam', which is no joint of any dataset",
        ),
        ({"grippers": ["*hand*"]}, "data.grippers names '*hand*'"),
    ],
)
def test_a_name_that_is_no_joint_is_an_error(data: dict[str, Any], words: str) -> None:
    (error,) = found(PLAIN, **data)
    assert error.verdict == "error"
    assert words in error.seen
    assert found(PLAIN, unit={"SHOULDER_*.pos": "rad", "*": "deg"}, grippers=["gripper.pos", "wrist_*"]) == []


EPISODES = np.repeat(np.arange(10), 30)


def part(values: Values, chosen: list[int], every: int = 1) -> Values:
    return np.concatenate([values[number == EPISODES][::every] for number in chosen])


@pytest.mark.parametrize(
    ("chosen", "every"), [(list(range(10)), 1), ([7, 3], 1), ([9, 8, 7, 6, 5, 4, 3, 2, 1, 0], 1), (list(range(10)), 3)]
)
def test_the_same_recordings_are_recognised(chosen: list[int], every: int) -> None:
    """All or some of the episodes, in another order, or thinned out; among others."""
    values, own = recorded(1), recorded(9)
    mine = np.concatenate([part(values, chosen, every), own])
    owners = np.concatenate([np.repeat(np.arange(len(chosen)), 30 // every), EPISODES + len(chosen)])
    same = shared_episodes(rows_of([mine, mine], owners), rows_of([values, values], EPISODES))
    assert same == dict(enumerate(chosen))
    assert shared_episodes(rows_of([own, own], EPISODES), rows_of([values, values], EPISODES)) == {}


def test_an_arm_at_rest_is_no_recording() -> None:
    """Every episode begins and ends in the same pose; and one that is still from end to end has a single row."""
    one, two = (np.array([[*LOW]] * 10 + recorded(seed)[:10].tolist() + [[*LOW]] * 10) for seed in (1, 2))
    owners = np.repeat(np.arange(3), 10)
    assert shared_episodes(rows_of([one], owners), rows_of([two], owners)) == {}
    assert repeated_episodes(rows_of([one], owners)) == {}


def test_an_episode_that_is_there_twice() -> None:
    values = recorded(1)
    values[EPISODES == 9] = values[EPISODES == 4]
    assert repeated_episodes(rows_of([values], EPISODES)) == {9: 4}
    warnings = found({**PLAIN, "odd": traits(values + 0.01)})
    assert [(item.dataset, item.check) for item in warnings] == [("odd", "same recordings")]
    assert "1 episodes are there twice (9 = 4)" in warnings[0].seen


def test_long_recordings_are_recognised_by_a_sample() -> None:
    values = np.random.default_rng(0).normal(size=(50_000, 6))
    owners = np.repeat(np.arange(100), 500)
    many, few = rows_of([values], owners), rows_of([values[:5000]], owners[:5000])
    assert len(many.digests) <= 8192
    assert few.every < many.every
    assert shared_episodes(few, many) == {number: number for number in range(10)} == shared_episodes(many, few)


def test_who_has_whose_recordings_is_said() -> None:
    (warning,) = found({**PLAIN, "copy": PLAIN["two"]})
    assert (warning.dataset, warning.check) == ("copy", "same recordings")
    words = "10 of 10 episodes are recordings of client 'two', too (here = there: 0 = 0, 1 = 1, 2 = 2 and 7 more)"
    assert words in warning.seen
    assert "leave one of the two out" in warning.remedy
    (warning,) = found({**PLAIN, "room": PLAIN["two"]}, ["room"])
    assert warning.dataset == "room"
    assert "evaluate on recordings that no client has" in warning.remedy


def test_what_cannot_be_read_is_left_out() -> None:
    assert list(compare(run_of(["one", "two"]), {})) == []
    assert list(compare(run_of(["one", "two"]), {"one": PLAIN["one"]})) == [], "nothing to compare with"
    empty = Traits(fps=25, robot_type=None, cameras={FRONT: [64, 64, 3]}, joints={}, ranges={}, rows=None)
    assert found({**PLAIN, "empty": empty}) == []
