"""What is looked at before the first container, without an engine."""

import json
import os
from pathlib import Path

import pytest

from tests.unit.executors.docker.made import config, nvidia_smi
from zk0.errors import ConfigError
from zk0.executors.docker import check, inside
from zk0.executors.docker.check import check_container, settle_places
from zk0.runs.versions import PACKAGES, package_version


def test_cuda_without_a_gpu_is_refused(tmp_path: Path) -> None:
    settings = config(tmp_path, policy__device="cuda", executor__docker={"gpus": []})
    with pytest.raises(ConfigError, match=r"executor\.docker\.gpus = \[\]: policy\.device = 'cuda' needs one"):
        check_container(settings)


def test_a_missing_root_and_a_dangling_link_are_left_to_the_checks_of_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root, whose containers have a user of their own."""
    monkeypatch.setattr(os, "getuid", lambda: 0)

    settings = config(tmp_path)
    (tmp_path / "kitchen").mkdir()
    (tmp_path / "kitchen" / "nowhere").symlink_to(tmp_path / "gone")
    (tmp_path / "kitchen" / "round").symlink_to("round")
    check._check_folders(settings)  # `workshop` is missing
    shut = tmp_path / "kitchen" / "shut.parquet"
    shut.touch(0o600)
    with pytest.raises(ConfigError, match=r"shut\.parquet: a container, which runs as user 65532"):
        check._check_folders(settings)


def printed(**changes: str) -> str:
    """What a container's `versions cuda` prints, after a line of someone else."""
    return "a warning\n" + json.dumps({package: package_version(package) for package in PACKAGES} | changes) + "\n"


def test_gpus_that_torch_cannot_use_are_refused(tmp_path: Path) -> None:
    settings = config(tmp_path)
    check.judge_versions(settings, ["0", "1"], printed(cuda=""))
    check.judge_versions(settings, [], printed())
    with pytest.raises(
        ConfigError, match=r"gpus = \['0', '1'\].*cannot use CUDA \(driver too old\); update .* policy\.device = 'cpu'"
    ):
        check.judge_versions(settings, ["0", "1"], printed(cuda="driver too old"))
    with pytest.raises(ConfigError, match=r"holds other versions.*torch 1\.0, here"):
        check.judge_versions(settings, ["0"], printed(torch="1.0", cuda=""))
    with pytest.raises(ConfigError, match=r"zk0 does not start in it \(no output\)"):
        check.judge_versions(settings, ["0"], "")
    check.judge_versions(settings, [], printed(plugin=""))
    with pytest.raises(ConfigError, match=r"policy\.plugin.*image = 'zk0:latest' has no package 'mine'.*an image FROM"):
        check.judge_versions(settings, [], printed(plugin="mine"))


@pytest.mark.parametrize(("plugin", "lacking"), [("json.tool", ""), ("nowhere.policies", "nowhere")])
def test_a_container_says_which_package_of_a_policy_it_lacks(
    plugin: str, lacking: str, capsys: pytest.CaptureFixture[str]
) -> None:
    inside.main(["versions", f"plugin={plugin}"])
    assert json.loads(capsys.readouterr().out)["plugin"] == lacking


def test_there_are_as_many_places_as_gpus_unless_the_config_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia_smi(tmp_path, monkeypatch, "0, GPU-a\\n1, GPU-b\\n2, GPU-c\\n")
    silent = {"executor__max_parallel": None, "policy__device": "cuda"}
    assert settle_places(config(tmp_path, **silent)).executor.places == 3
    assert settle_places(config(tmp_path, **silent, executor__docker={"gpus": ["1", "2"]})).executor.places == 2
    assert settle_places(config(tmp_path, executor__max_parallel=None)).executor.places == 1, "it trains on the CPU"
    assert settle_places(config(tmp_path, policy__device="cuda")).executor.places == 2, "the config says so"
    assert config(tmp_path, executor__max_parallel=None).executor.places == 1, "nobody has settled it"
