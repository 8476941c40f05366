"""Names of joints in every shape that LeRobot accepts."""

from typing import Any

import pytest

from zk0.data.names import given_names, joint_names, name_axes

ARMS = {"left": ["shoulder", "gripper"], "right": ["shoulder", "gripper"]}
NAMES = {
    "a list": (["pan.pos", "lift.pos"], ["pan.pos", "lift.pos"]),
    "lists in a list": ([["kLeftShoulder", "kLeftElbow"]], ["kLeftShoulder", "kLeftElbow"]),
    "several lists in a list": ([["a", "b"], ["c"]], ["a", "b", "c"]),
    "one group": ({"motors": ["a", "b"]}, ["a", "b"]),
    "two groups": ({"arm": ["a", "b"], "hand": ["c"]}, ["a", "b", "c"]),
    "groups of groups": ({"left": {"arm": ["a"], "hand": ["b"]}, "right": {"arm": ["c"]}}, ["a", "b", "c"]),
    "the same name in two groups": (ARMS, ["left.shoulder", "left.gripper", "right.shoulder", "right.gripper"]),
    "places": ({"y": 1, "x": 0}, ["x", "y"]),
    "a name for each key": ({"0": "a", "1": "b"}, ["a", "b"]),
    "numbers": ([0, 1], ["0", "1"]),
    "a single name": ("x", ["x"]),
    "twice the same": (["a", "b", "a"], ["a_0", "b", "a_2"]),
    "a null among names": (["a", None], ["a", "joint_1"]),
    "null": (None, None),
    "nothing but nulls": ([None, None], None),
    "an empty list": ([], None),
    "an empty group": ({}, None),
}


@pytest.mark.parametrize(("names", "read"), NAMES.values(), ids=NAMES)
def test_every_shape(names: Any, read: list[str] | None) -> None:
    assert given_names({"names": names}) == read
    if read is not None:
        assert joint_names({"names": names}, len(read)) == [name.removesuffix(".pos") for name in read]


def test_no_names() -> None:
    assert given_names({}) is None
    assert joint_names({}, 2) == ["joint_0", "joint_1"]
    assert joint_names({"names": ["a"]}, 2) == ["joint_0", "joint_1"]


def test_names_that_differ_by_their_ending_alone_stay_apart() -> None:
    assert joint_names({"names": ["a", "a.pos"]}, 2) == ["joint_0", "joint_1"]


@pytest.mark.parametrize("names", [None, [], ["height"], {"axes": ["height", "width", "channels"]}, 3])
@pytest.mark.parametrize(
    ("shape", "last"), [((64, 48, 3), "channels"), ((3, 64, 48), "width"), ((3, 3, 3), "channels")]
)
def test_axes_of_cameras(names: Any, shape: tuple[int, ...], last: str) -> None:
    """LeRobot takes a camera's third name for its channels, and falls over null."""
    features: dict[str, dict[str, Any]] = {"a": {"dtype": "video", "shape": shape, "names": names}}
    name_axes(features)
    assert features["a"]["names"][2] == last


def test_axes_that_are_named_stay() -> None:
    given = ["height", "width", "channel"]
    features: dict[str, dict[str, Any]] = {
        "a": {"dtype": "image", "shape": (64, 64, 3), "names": given},
        "b": {"dtype": "float32", "shape": (6,)},
    }
    name_axes(features)
    assert features["a"]["names"] is given
    assert "names" not in features["b"]
