"""A strategy, a policy and an executor of a package that is not zk0: all in one run, to its end and past a SIGKILL."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.service import CommandLine
from tests.foreign import installed
from tests.integration.conftest import kill, worker_of
from zk0.files import atomic

pytestmark = pytest.mark.slow
CHANGES: dict[str, Any] = {
    # One, for each piece of its work is a new interpreter that imports everything.
    "clients": [{"name": "kitchen", "repo_id": "zk0/kitchen", "root": "asset:datasets/kitchen"}],
    "federation__min_train_clients": 1,
    "federation__strategy": "zk0_example.strategies:ServerMomentum",
    "federation__strategy_options": {"momentum": 0.5},
    "policy": {"type": "example_mlp", "plugin": "zk0_example.policy", "device": "cpu", "overrides": {"hidden_dim": 8}},
    "peft__enabled": False,
    "data__normalization": "federated",
    "training__steps": 10,
    "executor": {"kind": "subprocesses", "options": {"places": 2}, "retry_delay_s": 0.1},
}


@pytest.fixture(scope="module")
def extended(zk0: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """The command line where the foreign package is installed."""
    paths = [zk0.environment["PYTHONPATH"], *map(str, installed(tmp_path_factory.mktemp("installed")))]
    environment = {**zk0.environment, "PYTHONPATH": os.pathsep.join(paths)}
    return CommandLine(tmp_path_factory.mktemp("extended"), environment)


SCRIPT = """
import json, sys, zk0
from zk0.errors import ConfigError

config, out, *settings = sys.argv[1:]
run = zk0.run(config, name="undisturbed")
run.export(out, server_round=1)
policy, *_ = run.policy()
print(run.config.executor.places, type(policy).__name__, sum(value.numel() for value in policy.parameters()))
for setting in settings:
    try:
        zk0.run(config, name="refused", overrides=[setting])
    except ConfigError as error:
        print(error)
"""
REFUSED = {
    "federation.strategy=zk0_example.strategies:Nothing": "strategies there: FedAvg, ServerMomentum; correct the name",
    "federation.strategy_options.momentm=0.5": "'momentm'); correct them",
    "policy.plugin=zk0_example.polices": "No module named 'zk0_example.polices'); install its package",
    "executor.kind=subproceses": "there are 'docker', 'process', 'subprocesses', 'superlink'; correct it",
}


@pytest.fixture(scope="module")
def printed(extended: CommandLine) -> list[str]:
    """What a run of all three from Python, without Prefect, prints, and then some that are refused."""
    arguments = map(str, (extended.config(**CHANGES), extended.folder / "exported", *REFUSED))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        cwd=extended.folder,
        env=extended.environment,
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1 - len(REFUSED) :]


@pytest.fixture(scope="module")
def undisturbed(extended: CommandLine, printed: list[str]) -> Path:
    return extended.outputs / "undisturbed"


def test_each_of_them_is_used(undisturbed: Path) -> None:
    momentum = atomic.read_json(undisturbed / "rounds" / "0002" / "strategy.json")
    assert len(dict(momentum["state_dict"][1][1])["lengths"][1]) == 2
    tensors = atomic.read_tensors(undisturbed / "rounds" / "0002" / "global.safetensors")
    velocity = atomic.read_tensors(undisturbed / "rounds" / "0002" / "strategy.safetensors")
    assert {f"state_dict/velocity/{name}" for name in tensors} == set(velocity)
    assert json.loads((undisturbed / "final" / "config.json").read_text())["type"] == "example_mlp"
    lines = map(json.loads, (undisturbed / "metrics.jsonl").read_text().splitlines())
    losses = [line["summary"]["loss"] for line in lines]
    assert losses[2] < losses[1] < losses[0], "it does not learn"


def test_a_sigkill_changes_no_byte(extended: CommandLine, undisturbed: Path) -> None:
    command = ("run", extended.config(**CHANGES), "--name", "killed")
    folder = extended.outputs / "killed" / "rounds" / "0002" / "clients" / "kitchen"
    process = extended.start_until((folder / "train.lock").is_file, *command)
    while (worker := worker_of(folder, "train")) is None:
        assert process.poll() is None, process.communicate()[0]
    assert worker.cmdline()[1:3] == ["-m", "zk0_example.worker"]
    kill(process)
    extended.run(*command)
    assert extended.result("killed", 2, "kitchen").pid == worker.pid, "its work was done twice"
    for server_round in range(3):
        assert extended.digest("killed", server_round) == extended.digest("undisturbed", server_round)
    for file in ("strategy.json", "strategy.safetensors"):
        ends = [extended.outputs / name / "rounds" / "0002" / file for name in ("killed", "undisturbed")]
        assert ends[0].read_bytes() == ends[1].read_bytes()


def test_the_policy_is_exported_and_loaded(extended: CommandLine, printed: list[str]) -> None:
    assert printed[0] == f"2 ExampleMlpPolicy {6 * 8 + 8 + 8 * 48 + 48}"
    assert json.loads((extended.folder / "exported" / "config.json").read_text())["hidden_dim"] == 8


def test_what_is_not_there_is_refused_before_anything_is_written(extended: CommandLine, printed: list[str]) -> None:
    for setting, line in zip(REFUSED, printed[1:], strict=True):
        assert line.startswith(setting.split("=")[0].removesuffix(".momentm"))
        assert REFUSED[setting] in line
    assert not (extended.outputs / "refused").exists()
