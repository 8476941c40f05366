"""A policy that is not LeRobot's: where it is looked for, and what is said where it is not there."""

from pathlib import Path

import pytest
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies import make_policy_config

from tests.foreign import PACKAGE
from zk0.config import PolicyConfig
from zk0.errors import ConfigError, PolicyError
from zk0.learning import plugins
from zk0.learning.policy import load_policy_config, new_policy_config

FEATURES = {
    "observation.state": PolicyFeature(FeatureType.STATE, (6,)),
    "action": PolicyFeature(FeatureType.ACTION, (6,)),
}
MODULE = """
from dataclasses import dataclass
from lerobot.configs.policies import PreTrainedConfig
from zk0_example.policy.configuration_example_mlp import ExampleMlpConfig

@PreTrainedConfig.register_subclass("{name}")
@dataclass
class {name}Config(ExampleMlpConfig):
    pass
"""


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for folder in (PACKAGE, tmp_path):
        monkeypatch.syspath_prepend(folder)


def from_scratch(kind: str, plugin: str | None) -> PolicyConfig:
    return PolicyConfig(type=kind, plugin=plugin, device="cpu")


def test_a_package_registers_its_type_for_both_origins(tmp_path: Path) -> None:
    made = new_policy_config(from_scratch("example_mlp", "zk0_example.policy"), FEATURES)
    assert (made.type, list(made.input_features)) == ("example_mlp", ["observation.state"])
    plugins.check_plugin(from_scratch("example_mlp", "zk0_example.policy"), made)
    made.save_pretrained(tmp_path)
    policy = PolicyConfig(path=str(tmp_path), plugin="zk0_example.policy", device="cpu", overrides={"hidden_dim": 3})
    assert load_policy_config(policy, str(tmp_path)).hidden_dim == 3


def test_what_is_installed_as_a_plug_in_of_lerobot_needs_no_key(tmp_path: Path) -> None:
    information = tmp_path / "lerobot_policy_installed-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: lerobot_policy_installed\nVersion: 1.0\n")
    (tmp_path / "lerobot_policy_installed.py").write_text(MODULE.format(name="Installed"))
    plugins._load_installed.cache_clear()
    assert new_policy_config(from_scratch("Installed", None), FEATURES).type == "Installed"


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"policy\.plugin = 'no\.where'.*No module named 'no'.*wherever clients train"
    ):
        new_policy_config(from_scratch("example_mlp", "no.where"), FEATURES)
    (tmp_path / "raising.py").write_text("raise ArithmeticError('of its own')")
    with pytest.raises(ConfigError, match=r"policy\.plugin = 'raising'.*ArithmeticError: of its own"):
        load_policy_config(PolicyConfig(path=str(tmp_path), plugin="raising", device="cpu"), str(tmp_path))
    with pytest.raises(PolicyError, match=r"policy\.type = 'nothing'.*use one of .*act.*, or name its plug-in"):
        new_policy_config(from_scratch("nothing", None), FEATURES)


def test_a_class_that_lerobot_would_not_find_is_named(tmp_path: Path) -> None:
    (tmp_path / "alone.py").write_text(MODULE.format(name="Alone"))
    policy = from_scratch("Alone", "alone")
    made = new_policy_config(policy, FEATURES)
    with pytest.raises(ConfigError, match=r"policy\.plugin = 'alone': .*'Alone'.*'AlonePolicy' not found in 'alone'"):
        plugins.check_plugin(policy, made)
    plugins.check_plugin(from_scratch("act", None), make_policy_config("act", device="cpu"))
