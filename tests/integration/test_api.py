"""zk0 from Python: the same bytes as the command line, each going on with what the other began, and reading a run."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import zk0 as package
from benchmarks.service import CommandLine, small_run
from tests.integration.conftest import kill
from zk0.errors import ConfigError, RunNameError

pytestmark = pytest.mark.slow

SCRIPT = """
import zk0

# At the top of a script, without an `if __name__ == "__main__"`: new processes must not begin it again.
run = zk0.run({config!r}, name={name!r})
assert run.finished, run
print("in the end", *(line["server_round"] for line in run.metrics))
"""


def script(zk0: CommandLine, name: str) -> list[str]:
    path = zk0.folder / f"{name}.py"
    path.write_text(SCRIPT.format(config=small_run(zk0.outputs, executor__max_parallel=1), name=name))
    return [sys.executable, str(path)]


def started(zk0: CommandLine, command: list[str]) -> "subprocess.Popen[str]":
    without_server = {key: value for key, value in zk0.environment.items() if not key.startswith("PREFECT_")}
    return subprocess.Popen(
        command,
        cwd=zk0.folder,
        env=without_server,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    while not path.is_file():
        assert process.poll() is None, process.communicate()[0]


def test_a_run_goes_from_python_to_the_command_line_and_back(zk0: CommandLine, reference: str) -> None:
    """Begun by a script and killed, gone on with by `zk0 run` and killed, ended by the script: the same bytes."""
    rounds = zk0.outputs / "both" / "rounds"
    begun = started(zk0, script(zk0, "both"))
    wait_for(rounds / "0001" / "clients" / "kitchen" / "train.json", begun)
    kill(begun)
    first_fit = zk0.result("both", 1, "kitchen")
    command = ("run", zk0.config(executor__max_parallel=1), "--name", "both")
    kill(zk0.start_until((rounds / "0002" / "clients" / "kitchen" / "train.json").is_file, *command))
    assert zk0.result("both", 1, "kitchen") == first_fit, "a finished fit was run twice"
    ended = started(zk0, script(zk0, "both"))
    output, _ = ended.communicate(timeout=300)
    assert ended.returncode == 0, output
    assert "in the end 0 1 2" in output
    assert [zk0.digest("both", number) for number in range(3)] == [
        zk0.digest("reference", number) for number in range(3)
    ]
    assert (zk0.outputs / "both" / "final" / "adapter_model.safetensors").is_file()
    assert (zk0.outputs / "both" / "charts" / "action-error.png").is_file()


def test_flowers_server_app_is_killed_and_goes_on_with_the_same_bytes(zk0: CommandLine, reference: str) -> None:
    """Named once; then the same config finds the unfinished run. Two of Flower's nodes do the clients' work."""
    config = {"config": str(zk0.config(executor__max_parallel=1))}
    command = [sys.executable, "-m", "tests.flower"]
    begun = started(zk0, [*command, json.dumps({**config, "name": "flower"})])
    first = zk0.outputs / "flower" / "rounds" / "0001" / "clients"
    wait_for(first / "kitchen" / "train.json", begun)
    kill(begun)
    done = zk0.result("flower", 1, "kitchen")
    ended = started(zk0, [*command, json.dumps(config)])
    output, _ = ended.communicate(timeout=300)
    assert ended.returncode == 0, output
    assert f"run flower: {zk0.outputs / 'flower'}" in output
    assert zk0.result("flower", 1, "kitchen") == done, "a finished fit was run twice"
    assert [zk0.digest("flower", number) for number in range(3)] == [
        zk0.digest("reference", number) for number in range(3)
    ]
    assert json.loads(zk0.run("status", "flower", "--json"))["state"] == "finished"


def test_what_is_read_of_a_run(zk0: CommandLine, reference: str, tmp_path: Path) -> None:
    run = package.open_run(zk0.outputs / "reference")
    assert (run.name, run.finished, run.rounds) == ("reference", True, [0, 1, 2])
    assert run.config.federation.num_rounds == 2
    assert [line["server_round"] for line in run.metrics] == [0, 1, 2]
    assert run.final == zk0.outputs / "reference" / "final"
    assert run.metrics == zk0.metrics("reference")
    policy, preprocessor, postprocessor = run.policy(1)
    frame = {"observation.state": torch.zeros(6), "task": "pick up the cube"}
    frame |= {f"observation.images.{camera}": torch.zeros(3, 64, 64) for camera in ("front", "wrist")}
    action = postprocessor(policy.select_action(preprocessor(frame)))
    assert action.shape == (1, 6)
    assert np.isfinite(action.numpy()).all()
    with pytest.raises(RunNameError, match=r"round 7: run 'reference' has no such round; committed and kept: 0, 1, 2"):
        run.export(tmp_path / "out", server_round=7)


def test_bad_input_is_refused_in_python_as_at_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"training\.steps"):
        package.run(small_run(tmp_path / "outputs"), overrides=["training.steps=-1"])
    with pytest.raises(RunNameError, match="no run 'nowhere'"):
        package.open_run(tmp_path / "nowhere")
    assert not (tmp_path / "outputs").exists()
