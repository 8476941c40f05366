"""Policies that pad states and actions: robots of another number of joints than the base's, as in lerobot-train."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig

import zk0
from tests.refusals import refused
from tests.robots import robot, run_of
from zk0.errors import PolicyError
from zk0.learning.policy import for_joints, policy_features
from zk0.preflight.inputs import check_dimensions

pytestmark = pytest.mark.slow
STATE, ACTION = "observation.state", "action"


def joints(target: Path, number: int) -> Path:
    """A recording of an arm with so many joints; the last is the gripper."""
    names = [f"joint_{place}.pos" for place in range(number - 1)] + ["gripper.pos"]
    places = [place % 5 for place in range(number - 1)] + [5]
    return robot(target, lambda values: values[:, places], names)


def test_seven_joints_train_on_a_base_of_six(tmp_path: Path) -> None:
    """All the way: evaluation, replay, final/ and the policy as LeRobot loads it have seven."""
    config = run_of(tmp_path / "outputs", {"one": joints(tmp_path / "one", 7)}, report__joint_charts=True)
    run = zk0.run({**config, "data": {"normalization": "federated"}}, name="seven")
    evaluated = run.metrics[-1]["evaluate"]["one"]
    assert evaluated["action_error_deg"] > 0
    assert len(evaluated["joint_error"]) == 7
    assert (run.path / "charts" / "joints-one.png").is_file()
    assert run.final is not None
    saved = json.loads((run.final / "config.json").read_text())
    assert saved["input_features"][STATE]["shape"] == saved["output_features"][ACTION]["shape"] == [7]
    loaded = run.policy()
    cameras = {f"observation.images.{name}": torch.zeros(3, 64, 64) for name in ("front", "wrist")}
    batch = loaded.preprocessor({**cameras, STATE: torch.zeros(7), "task": "pick it up"})
    assert loaded.postprocessor(loaded.policy.select_action(batch)).shape == (1, 7)


def features(state: int, action: int) -> dict[str, Any]:
    numbers = {STATE: state, ACTION: action}
    return {key: {"dtype": "float32", "shape": (size,), "names": None} for key, size in numbers.items()}


def base_for(kind: str, number: int, most: int = 8) -> Any:
    """A base as it was made for so many joints."""
    config: Any = SmolVLAConfig(max_state_dim=most, max_action_dim=most) if kind == "smolvla" else ACTConfig()
    config.input_features = {STATE: PolicyFeature(FeatureType.STATE, (number,))}
    config.output_features = {ACTION: PolicyFeature(FeatureType.ACTION, (number,))}
    return config


@pytest.mark.parametrize(
    ("kind", "first", "other", "words"),
    [
        ("smolvla", (7, 7), (7, 7), None),
        ("smolvla", (8, 8), (8, 8), None),
        ("smolvla", (5, 7), (5, 7), None),
        (
            "smolvla",
            (9, 7),
            (9, 7),
            r"'mine': 'observation.state' has 9 dimensions, .* room for max_state_dim = 8",
        ),
        ("smolvla", (7, 14), (7, 14), r"'action' has 14 dimensions, .* room for max_action_dim = 8"),
        (
            "smolvla",
            (7, 7),
            (7, 6),
            r"'action' has 6 dimensions, the first client's has 7; all datasets",
        ),
        ("smolvla", (6, 6), (7, 7), r"'observation.state' has 7 dimensions, the first client's has 6"),
        ("act", (7, 7), (7, 7), r"'observation.state' has 7 dimensions, the policy \(act\) was made for 6"),
        ("act", (6, 6), (6, 6), None),
    ],
)
def test_what_does_not_fit_is_refused_with_both_numbers(
    kind: str, first: tuple[int, int], other: tuple[int, int], words: str | None
) -> None:
    base = base_for(kind, 6)
    for_joints(base, policy_features(SimpleNamespace(features=features(*first)), {}))
    mine: Any = SimpleNamespace(features=features(*other))
    if words is None:
        check_dimensions(base, mine, {}, "mine")
        return
    with pytest.raises(PolicyError, match=words):
        check_dimensions(base, mine, {}, "mine")


def test_a_base_that_was_saved_with_all_its_room_fits_any_robot() -> None:
    """pi0's has 32 numbers of state and action."""
    base = base_for("smolvla", 32, most=32)
    for_joints(base, policy_features(SimpleNamespace(features=features(14, 14)), {}))
    assert base.input_features[STATE].shape == base.output_features[ACTION].shape == (14,)


@pytest.mark.parametrize(("normalization", "whose"), [("base", "all data"), ("own", "what the final policy sees")])
def test_the_bases_statistics_must_have_as_many_numbers(tmp_path: Path, normalization: str, whose: str) -> None:
    config = run_of(tmp_path / "outputs", {"one": joints(tmp_path / "one", 7)}, data__normalization=normalization)
    why = rf"'{ACTION}' has 7 dimensions, but .*{normalization!r} normalises {whose} .* have 6 numbers"
    refused(config, r"'?one\b", why, "use 'federated'")


def test_clients_that_disagree_are_refused(tmp_path: Path) -> None:
    roots = {name: joints(tmp_path / name, number) for name, number in (("one", 7), ("two", 6))}
    config = run_of(tmp_path / "outputs", roots, data__normalization="federated")
    refused(config, r"'?two\b", "'observation.state' has 6 dimensions, the first client's has 7", "leave one out")
