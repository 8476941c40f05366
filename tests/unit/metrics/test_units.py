"""Units: what joints' names and robots' types say of them, and how figures are found whatever theirs is."""

import pytest

from zk0.metrics import intervals, units
from zk0.metrics.scores import METRICS, best_round, scores

GRIPPER = ["*gripper*"]
SO101 = ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"]
G1 = ["kLeftShoulderPitch", "kLeftElbow", "kRightWristYaw", "kLeftHandThumb0"]


@pytest.mark.parametrize(
    ("names", "robot_type", "expected"),
    [
        (SO101, "so101_follower", ["deg"] * 5 + ["0-100"]),
        ([f"{name}.pos" for name in SO101], None, ["deg"] * 5 + ["0-100"]),
        ([f"main_{name}" for name in SO101], "unknown", ["deg"] * 5 + ["0-100"]),
        (
            [f"{side}_{name}.pos" for side in ("left", "right") for name in SO101],
            "bi_so100",
            (["deg"] * 5 + ["0-100"]) * 2,
        ),
        (["j0.pos", "j1.pos", "gripper.pos"], "koch", ["deg", "deg", "0-100"]),
        (["joint_0", "joint_1"], None, [None, None]),
        (["joint_0", "joint_1"], "so100", ["deg", "deg"]),
        ([*SO101[:5], "x.vel", "theta.vel"], "lekiwi_client", ["deg"] * 5 + [None, None]),
        (["shoulder_pan", "upperarm_roll", "wrist_roll", "gripper"], "fetch", [None] * 4),
        (["left_waist", "left_shoulder", "left_gripper"], "aloha", [None] * 3),
        (G1, "Unitree_G1", ["rad", "rad", "rad", None]),
        (["elbow_rad", "rail [m]", "wrist (deg).pos", "team"], None, ["rad", "m", "deg", None]),
    ],
)
def test_names_and_robots_say_units_where_they_can(names, robot_type, expected):
    assert units.joints(names, robot_type, None, GRIPPER).units == expected


def test_the_config_says_the_rest():
    found = units.joints(SO101, "so101_follower", "rad", GRIPPER)
    assert found.units == ["rad"] * 5 + ["0-100"], "a unit of all joints is none of the gripper"
    assert (found.arm_unit, found.grippers, found.arm) == ("rad", [5], [0, 1, 2, 3, 4])
    by_joint = units.joints(
        ["Elbow.pos", "rail", "left_hand_0", "right_hand_0"], None, {"rail": "m", "*": "rad"}, ["*HAND*"]
    )
    assert (by_joint.units, by_joint.grippers) == (["rad", "m", "rad", "rad"], [2, 3])
    assert by_joint.record() == {
        "action_error": None,
        "gripper_error": "rad",
        "joint_error": {"Elbow.pos": "rad", "rail": "m", "left_hand_0": "rad", "right_hand_0": "rad"},
    }
    assert units.joints(SO101, None, None, []).grippers == []
    assert units.joints(G1, None, None, GRIPPER).arm_unit == "rad", "a joint of which nothing is known says nothing"


@pytest.mark.parametrize(
    ("unit", "key"),
    [("deg", "action_error_deg"), ("rad", "action_error_rad"), ("%", "action_error_percent"), (None, "action_error")],
)
def test_the_key_says_the_unit(unit, key):
    figures = {key: 0.5, "interval_95": {key: [0.4, 0.6]}, f"unseen_{key}": 0.7}
    assert units.key_of("action_error", unit) == key
    assert (units.value(figures, "action_error"), units.unit_of(figures, "action_error")) == (0.5, unit)
    assert units.get(figures["interval_95"], "action_error") == [0.4, 0.6]
    assert (units.value(figures, "unseen_action_error"), units.unit_of(figures, "unseen_action_error")) == (0.7, unit)


def test_figures_from_before_units_are_read_as_they_were_meant():
    old = {"action_error_deg": 4.0, "gripper_error": 2.0, "joints": ["elbow", "gripper"]}
    assert (units.unit_of(old, "action_error"), units.unit_of(old, "gripper_error")) == ("deg", "0-100")
    assert units.joint_units(old) == {"elbow": "deg", "gripper": "0-100"}
    new = {**old, "units": {"gripper_error": None, "joint_error": {"elbow": "rad", "gripper": None}}}
    assert units.unit_of(new, "gripper_error") is None
    assert units.joint_units(new) == {"elbow": "rad", "gripper": None}


def evaluated(key, error):
    return {key: error, "loss": 0.1, "episodes": {"steps": [5, 5], key: [error, error], "gripper_error": None}}


@pytest.mark.parametrize(
    ("keys", "shared", "mean"),
    [
        (("action_error_rad", "action_error_rad"), "action_error_rad", 0.3),
        (("action_error_rad", "action_error"), "action_error", 0.3),
        (("action_error_rad", "action_error_deg"), "action_error", None),
    ],
)
def test_a_mean_over_different_units_is_none(keys, shared, mean):
    """And so there is no best round by it, and no interval, while each dataset has its own."""
    evaluations = {"a": evaluated(keys[0], 0.2), "b": evaluated(keys[1], 0.4)}
    assert units.over(list(evaluations.values()), "action_error")[0] == shared
    assert units.mean(list(evaluations.values()), "action_error") == (None if mean is None else pytest.approx(mean))
    rounds = [{"server_round": 0, "evaluate": evaluations}]
    by_round = scores(rounds, METRICS["action_error"], ["a", "b"], quick=False)
    assert by_round == ({} if mean is None else {0: pytest.approx(mean)})
    best = best_round({"clients": [{"name": "a"}, {"name": "b"}]}, rounds)
    expected = "action error, rad" if shared.endswith("rad") else "action error"
    assert (best and best.label) == (None if mean is None else expected)
    of_round = intervals.of_round(evaluations, evaluations, ["a", "b"], 1)
    assert (of_round["interval_95"][shared] is None) == (mean is None)
    assert of_round["change"]["datasets"]["a"][keys[0]]["mean"] == 0
    assert set(of_round["change"]["clients"]) == {shared, "gripper_error"}
    assert f"unseen_{shared}" in of_round["interval_95"]
