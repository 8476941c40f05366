"""policy.overrides by the policy's own types: what fits is read as LeRobot reads it, all else is refused by its key."""

from pathlib import Path
from typing import Any

import pytest
from lerobot.configs.types import NormalizationMode
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig

from benchmarks.service import small_run
from zk0.config import PolicyConfig, load_config
from zk0.errors import PolicyError
from zk0.learning.overrides import decoded
from zk0.learning.policy import load_policy_config, new_policy_config, source_path


@pytest.mark.parametrize(
    ("config", "given", "read"),
    [
        (SmolVLAConfig, {"chunk_size": 5}, 5),
        (SmolVLAConfig, {"chunk_size": "5"}, 5),
        (SmolVLAConfig, {"optimizer_lr": 1}, 1.0),
        (SmolVLAConfig, {"resize_imgs_with_padding": [64, 64]}, (64, 64)),
        (SmolVLAConfig, {"normalization_mapping": {"STATE": "MIN_MAX"}}, {"STATE": NormalizationMode.MIN_MAX}),
        (ACTConfig, {"pretrained_backbone_weights": None}, None),
        (ACTConfig, {"replace_final_stride_with_dilation": True}, True),
    ],
)
def test_what_fits_is_of_the_fields_type(config: Any, given: dict[str, Any], read: Any) -> None:
    (value,) = decoded(given, config).values()
    assert (value, type(value)) == (read, type(read))


@pytest.mark.parametrize(
    ("config", "given", "words"),
    [
        (
            SmolVLAConfig,
            {"chunk_sise": 5},
            r"chunk_sise = 5: SmolVLAConfig has no such field \(did you mean 'chunk_size'",
        ),
        (SmolVLAConfig, {"chunk_size": 2.5}, r"chunk_size = 2.5: does not fit .*SmolVLAConfig.chunk_size is int"),
        (SmolVLAConfig, {"chunk_size": True}, r"chunk_size = True: does not fit \(it is bool\)"),
        (SmolVLAConfig, {"chunk_size": None}, r"chunk_size = None: does not fit \(it is null\)"),
        (SmolVLAConfig, {"chunk_size": [1]}, r"chunk_size = \[1\]: does not fit"),
        (SmolVLAConfig, {"use_cache": "yes"}, r"use_cache = 'yes': does not fit"),
        (SmolVLAConfig, {"vlm_model_name": 5}, r"vlm_model_name = 5: does not fit \(it is int\)"),
        (SmolVLAConfig, {"resize_imgs_with_padding": [64]}, r"does not fit \(Expected 2 items, got 1\)"),
        (SmolVLAConfig, {"normalization_mapping": {"STATE": "FOO"}}, r"NormalizationMode: MIN_MAX, MEAN_STD, IDENTITY"),
        (SmolVLAConfig, {"rtc_config": {"bogus": 1}}, r"rtc_config = .*fields `bogus` are not valid for RTCConfig"),
        (SmolVLAConfig, {"use_amp": True}, r"use_amp = True: nobody reads it; set training.amp"),
        (SmolVLAConfig, {"device": "cpu"}, r"device = 'cpu': policy.device says it; leave it out"),
        (SmolVLAConfig, {"use_peft": True}, r"use_peft = True: peft.enabled says it"),
        (ACTConfig, {"pretrained_backbone_weights": True}, r"does not fit \(it is bool\); .* is str \| null"),
    ],
)
def test_what_does_not_is_refused_by_its_key(config: Any, given: dict[str, Any], words: str) -> None:
    with pytest.raises(PolicyError, match=r"^policy\.overrides\..*" + words):
        decoded(given, config)


def test_a_value_that_the_policy_itself_refuses_is_named() -> None:
    words = r"^policy\.overrides\.n_action_steps = 500: the policy refuses it \(.*chunk size is the upper bound"
    overrides = {"n_action_steps": 500, "optimizer_lr": 1e-4}
    with pytest.raises(PolicyError, match=words):
        new_policy_config(PolicyConfig(type="act", device="cpu", overrides=overrides), {})
    policy = PolicyConfig(path="asset:base", device="cpu", overrides=overrides)
    with pytest.raises(PolicyError, match=words):
        load_policy_config(policy, source_path(policy))


def test_null_is_said_as_lerobot_says_it(tmp_path: Path) -> None:
    data = small_run(tmp_path, policy={"type": "act", "device": "cpu", "overrides": {"dim_model": 32}})
    data |= {"peft": {"enabled": False}, "data": {"normalization": "federated"}}
    word = "policy.overrides.pretrained_backbone_weights=null"
    assert load_config(data, [word]).policy.overrides == {"dim_model": 32, "pretrained_backbone_weights": None}
    data["policy"]["overrides"] = {"a": {"b": ["null", "x"]}}
    assert load_config(data).policy.overrides == {"a": {"b": [None, "x"]}}
    assert load_config(data, ["training.lr=null"]).training.lr is None
