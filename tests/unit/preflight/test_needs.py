"""What LeRobot's policies need beyond what their configs say."""

from types import SimpleNamespace
from typing import Any

import pytest
from lerobot.configs.types import FeatureType, PolicyFeature

from zk0.preflight.needs import unmet

CAMERA, STATE = "observation.images.front", "observation.state"


def config(kind: str, *, rewards: bool = False, **inputs: FeatureType) -> Any:
    features = {key.replace("__", "."): PolicyFeature(item, (6,)) for key, item in inputs.items()}
    return SimpleNamespace(type=kind, input_features=features, reward_delta_indices=[0] if rewards else None)


SEES = {CAMERA.replace(".", "__"): FeatureType.VISUAL, "observation__state": FeatureType.STATE}


@pytest.mark.parametrize(
    ("wanted", "given", "words"),
    [
        (config("act", **SEES), {}, None),
        (config("vqbet", **SEES), {}, None),
        (config("tdmpc", rewards=True, observation__image=FeatureType.VISUAL), {"next.reward": "a state"}, None),
        (config("tdmpc", rewards=True, **SEES), {}, "learns from rewards, and the dataset has no 'next.reward'"),
        (config("tdmpc", **SEES), {}, 'rename_map = { "mine" = "observation.image" }'),
        (config("vqbet", **SEES, observation__environment_state=FeatureType.ENV), {}, "fails on 'observation.env"),
        (config("gaussian_actor", **SEES), {}, "by reinforcement"),
    ],
)
def test_what_is_known_to_fail_is_named(wanted: Any, given: dict[str, str], words: str | None) -> None:
    said = unmet(wanted, given, {"mine": CAMERA})
    assert said is None if words is None else words in str(said)
