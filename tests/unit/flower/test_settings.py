"""Flower's flat run config as a start of zk0."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from benchmarks.service import ROOT
from scripts import flower_config
from zk0.config import RunConfig, load_config
from zk0.config.part import NULL
from zk0.errors import ConfigError
from zk0.flower.__main__ import main
from zk0.flower.settings import OWN, keys, wanted


def test_pyproject_lists_every_key_of_the_config() -> None:
    text = flower_config.TARGET.read_text(encoding="utf-8")
    assert flower_config.renewed(text) == text, "run `uv run python scripts/flower_config.py`"


def test_what_pyproject_lists_is_the_default_run() -> None:
    assert wanted(listed()).config == load_config("sim")
    assert wanted(listed())[1:] == (None, "sim", False)


def listed() -> dict[str, Any]:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["flwr"]["app"]["config"]
    return flat(config)


def flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def test_no_key_of_the_config_is_named_as_one_of_the_start() -> None:
    assert not {*OWN} & RunConfig.model_fields.keys()


def test_every_key_of_the_config_is_reached() -> None:
    """By its dumped value: as `--run-config` gives it, texts for what Flower has no type for."""
    config = load_config("sim", ["training.steps=11", "federation.may_miss=1"])
    before = at_keys(load_config("so100"))
    given = {
        key: value if isinstance(value, bool | int | float | str) else in_toml(value)
        for key, value in at_keys(config).items()
        if value is not None or before[key] is not None
    }
    assert len(given) > 70
    assert wanted({"config": "so100", **given}).config == config


def at_keys(config: RunConfig) -> dict[str, Any]:
    found = {}
    for key in keys():
        value: Any = config.model_dump(mode="json")
        for part in key.split("."):
            value = value[part]
        found[key] = value
    return found


def in_toml(value: Any) -> str:
    """A value as people write it behind a `=`."""
    if value is None:
        return NULL
    if isinstance(value, dict):
        items = [f'"{key}" = {in_toml(item)}' for key, item in value.items() if item is not None]
        return "{" + ", ".join(items) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(in_toml, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else f"'{value}'" if isinstance(value, str) else repr(value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"training.stepps": 3}, r"training\.stepps = 3: unknown key \(did you mean 'steps'\?\)"),
        ({"set": "training.stepps=3"}, r"training\.stepps = 3: unknown key \(did you mean 'steps'\?\)"),
        ({"trainin": 3}, r"trainin = 3: unknown key \(did you mean 'training'\?\)"),
        ({"training.steps": -1}, r"training\.steps = -1"),
        ({"training.steps": True}, r"training\.steps = True"),
        ({"clients": "[{name = 'a'}]"}, r"clients\.0\.repo_id: missing"),
        ({"set": "training.steps"}, r"not of the form key=value"),
        ({"set": "a='b"}, r"set = \"a='b\": No closing quotation; give key=value items"),
        ({"config": "simm"}, r"config 'simm': no such file"),
        ({"strict": "yes"}, r"strict = 'yes': should be true or false"),
    ],
)
def test_what_is_wrong_is_named(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        wanted(given)


def test_lists_and_single_clients_can_be_given() -> None:
    client = '{name = "a", repo_id = "x/a", root = "/data/a b"}'
    start = wanted({"clients": f"[{client}]", "federation.min_train_clients": 1, "name": "first", "strict": True})
    assert [(item.name, item.root) for item in start.config.clients] == [("a", "/data/a b")]
    assert (start.name, start.strict) == ("first", True)
    named = wanted({"set": "clients.0.root='/data/a b' training.steps=7", "training.steps": 5}).config
    assert (named.clients[0].root, named.training.steps) == ("/data/a b", 7)
    assert wanted({"training.lr": 1e-5, "peft.enabled": True}).config.training.lr == 1e-5


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["training.stepps=3"], 2, "error: training.stepps = 3: unknown key (did you mean 'steps'?)"),
        (["trainin.steps=3", 'name="x"'], 2, "trainin = {'steps': 3}: unknown key (did you mean 'training'?)"),
        (["nam=x"], 2, "nam = 'x': unknown key"),
        (["training.steps=-1 strict=true"], 2, "training.steps = -1"),
        (["training.steps"], 2, "'training.steps' is not of the form key=value"),
        (["a='b"], 2, 'RUN_CONFIG = "a=\'b": No closing quotation'),
        (["away.toml"], 2, "away.toml: cannot be read"),
        (['config="so100" training.steps=20', "strict=false"], 0, "flwr run can be given that"),
    ],
)
def test_a_run_config_can_be_tried_before_flower_refuses_it_without_a_word(
    words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == code
    assert said in "".join(capsys.readouterr())


def test_a_run_config_in_a_file_can_be_tried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.toml"
    path.write_text("config = 'sim'\n[training]\nstepps = 3\n")
    assert main([str(path)]) == 2
    assert "training.stepps = 3: unknown key (did you mean 'steps'?)" in capsys.readouterr().err
    path.write_text("config = 'sim'\n[training]\nsteps = 3\n")
    assert main([str(path)]) == 0
