"""rename_map: what LeRobot would lose or pass over is refused, and what is proposed is of the kind that is needed."""

import re

import pytest
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig

from zk0.preflight.renames import STATE, VISUAL, proposal, wrong_rename

FRONT, WRIST, JOINTS = "observation.images.front", "observation.images.wrist", "observation.state"
TOP, GRIPPER = "observation.images.top", "observation.gripper"
GIVEN = {FRONT: VISUAL, WRIST: VISUAL, TOP: VISUAL, JOINTS: STATE, "action": "the action"}


def policy() -> ACTConfig:
    camera = PolicyFeature(FeatureType.VISUAL, (3, 64, 64))
    inputs = {FRONT: camera, WRIST: camera, JOINTS: PolicyFeature(FeatureType.STATE, (6,))}
    return ACTConfig(device="cpu", push_to_hub=False, input_features=inputs)


@pytest.mark.parametrize(
    ("renames", "words"),
    [
        ({FRONT: WRIST}, f"gives '{FRONT}' and '{WRIST}' the same name '{WRIST}', and one would be lost"),
        ({TOP: FRONT, FRONT: FRONT}, "the same name"),
        ({TOP: GRIPPER, FRONT: GRIPPER}, "the same name"),
        ({FRONT: JOINTS}, f"gives '{FRONT}', a camera, the name '{JOINTS}', which is a state's; there is no other"),
        ({JOINTS: TOP}, f"gives '{JOINTS}', a state, the name '{TOP}', which is a camera's"),
        ({JOINTS: FRONT}, f"which is a camera's; map a camera to it by rename_map, such as {{'{TOP}' = '{FRONT}'}}"),
        ({TOP: "observation.image"}, None),
        ({TOP: "camera1"}, "begin with 'observation.'; write a name such as 'observation.images.camera1'"),
        ({TOP: "images.camera1"}, "write a name such as 'observation.images.camera1'"),
        ({JOINTS: "action"}, "LeRobot renames observations alone, no actions"),
        ({"action": JOINTS}, "LeRobot renames observations alone, no actions"),
        ({"observation.images.frnt": FRONT}, f"names 'observation.images.frnt' (did you mean '{FRONT}'?)"),
        ({FRONT: FRONT, JOINTS: JOINTS}, None),
        ({FRONT: WRIST, WRIST: FRONT}, None),
        ({FRONT: WRIST, WRIST: TOP, TOP: FRONT}, None),
        ({FRONT: "observation.images.camera1"}, None),
        ({}, None),
    ],
)
def test_a_rename_must_lose_nothing(renames: dict[str, str], words: str | None) -> None:
    found = wrong_rename(renames, GIVEN, policy())
    assert found is None if words is None else re.search(re.escape(words), found or ""), found


def test_names_that_lerobot_passes_over_are_refused() -> None:
    given = {"image": VISUAL, "state": STATE, "actions": STATE}
    assert "'image' to 'observation.images.front', and LeRobot passes over" in str(
        wrong_rename({"image": FRONT}, given, policy())
    )
    assert "call the dataset's own feature 'action'" in str(wrong_rename({"actions": "action"}, given, policy()))


@pytest.mark.parametrize(
    ("wanted", "given", "words"),
    [
        (JOINTS, {FRONT: VISUAL, "observation.joints": STATE}, "such as {'observation.joints' = 'observation.state'}"),
        (JOINTS, {FRONT: VISUAL, TOP: VISUAL}, "there is no other state to map to it: record one"),
        (JOINTS, {FRONT: VISUAL, "state": STATE}, "'state' is a state, and LeRobot gives a policy what begins with"),
        (
            WRIST,
            {FRONT: VISUAL, TOP: VISUAL, "observation.images.wrist_cam": VISUAL},
            "{'observation.images.wrist_cam'",
        ),
        (WRIST, {FRONT: VISUAL, JOINTS: STATE}, "there is no other camera to map to it"),
    ],
)
def test_what_is_proposed_is_of_the_kind_that_is_needed(wanted: str, given: dict[str, str], words: str) -> None:
    assert words in proposal(wanted, {}, given, policy())
