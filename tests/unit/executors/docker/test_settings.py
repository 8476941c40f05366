"""A container's settings are those of the config."""

import os
from pathlib import Path

import pytest

from tests.unit.executors.docker.made import config
from zk0.errors import ConfigError
from zk0.executors.docker.settings import USER, common_settings, user, wanted_gpus
from zk0.memory.usage import GIB


def test_the_callers_user_is_kept_unless_it_is_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert user() == (USER, USER)
    monkeypatch.setattr(os, "getuid", lambda: 1234)
    monkeypatch.setattr(os, "getgid", lambda: 567)
    assert common_settings(config(tmp_path), None, GIB)["user"] == "1234:567"


def test_settings_are_what_the_config_says(tmp_path: Path) -> None:
    settings = config(tmp_path, executor__docker={"cpus": 1.5, "shm_size": "1g", "gpus": [3, "GPU-x"]})
    made = common_settings(settings, "3", 5 * GIB)
    assert made["environment"]["PYTHONSAFEPATH"] == "1", "a client's file could hide a module from what runs there"
    assert made["nano_cpus"] == 1_500_000_000
    assert made["shm_size"] == GIB
    assert made["mem_limit"] == made["memswap_limit"] == 5 * GIB
    assert made["device_requests"][0]["DeviceIDs"] == ["3"]
    assert wanted_gpus(settings) == ["3", "GPU-x"]
    assert wanted_gpus(config(tmp_path)) == [], "the policy trains on the CPU"
    assert common_settings(config(tmp_path), None, GIB)["shm_size"] == int(10.24 * GIB)


def test_bad_settings_are_named(tmp_path: Path) -> None:
    bad = {"mem_limit": ("much", "0"), "shm_size": ("10 GBytes", "0g"), "mounts": (["data"],), "cpus": (0,)}
    for key, value in [(key, value) for key, values in bad.items() for value in values]:
        with pytest.raises(ConfigError, match=f"executor.docker.{key}"):
            config(tmp_path, executor__docker={key: value})
