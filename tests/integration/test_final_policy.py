"""What a run leaves is LeRobot's: its own commands and factories load it, adapter and merged."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.service import CommandLine

pytestmark = pytest.mark.slow


def lerobot_eval(zk0: CommandLine, policy: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """One episode of the closed loop, by LeRobot's own command."""
    command = [
        "-m",
        "lerobot.scripts.lerobot_eval",
        f"--policy.path={policy}",
        "--policy.device=cpu",
        "--env.type=zk0_so101",
        "--env.discover_packages_path=zk0.sim",
        "--env.setting=kitchen",
        "--eval.n_episodes=1",
        "--eval.batch_size=1",
        f"--output_dir={out}",
    ]
    return subprocess.run(
        [sys.executable, *command], env=zk0.environment, cwd=zk0.folder, capture_output=True, text=True, check=False
    )


def test_lerobot_eval_runs_the_final_policy(zk0: CommandLine, reference: str, tmp_path: Path) -> None:
    done = lerobot_eval(zk0, zk0.outputs / "reference" / "final", tmp_path / "eval")
    assert done.returncode == 0, done.stderr
    assert "pc_success" in done.stdout + done.stderr


@pytest.mark.exhaustive
def test_lerobot_eval_runs_a_merged_export(zk0: CommandLine, reference: str, tmp_path: Path) -> None:
    merged = tmp_path / "merged"
    zk0.run("export", "reference", "--merge", "--out", merged, "--outputs", zk0.outputs)
    assert not (merged / "adapter_config.json").exists()
    done = lerobot_eval(zk0, merged, tmp_path / "eval")
    assert done.returncode == 0, done.stderr


def test_export_refuses_what_is_not_there(zk0: CommandLine, reference: str, tmp_path: Path) -> None:
    where = ("--outputs", zk0.outputs)
    assert "committed and kept: 0, 1, 2" in zk0.run(
        "export", "reference", "--round", "9", "--out", tmp_path / "x", *where, exit_code=2
    )
    (tmp_path / "taken").mkdir()
    assert "exists" in zk0.run("export", "reference", "--out", tmp_path / "taken", *where, exit_code=2)
    assert "runs there" in zk0.run("export", "nobody", "--out", tmp_path / "x", *where, exit_code=2)


def _can_unshare() -> bool:
    unshare = shutil.which("unshare")
    return unshare is not None and subprocess.run([unshare, "-n", "true"], check=False).returncode == 0


@pytest.mark.skipif(not _can_unshare(), reason="needs the right to make a network namespace (unshare -n)")
def test_without_a_network_a_run_completes(zk0: CommandLine, tmp_path: Path) -> None:
    """Only loopback is up; the Prefect server is one that zk0 starts itself."""
    environment = {key: value for key, value in zk0.environment.items() if key != "PREFECT_API_URL"}
    environment |= {"PREFECT_HOME": str(tmp_path / "prefect"), "HF_HOME": str(tmp_path / "huggingface")}
    config = zk0.config(outputs_dir=str(tmp_path / "outputs"), federation__num_rounds=1)
    script = f"ip link set lo up && {sys.executable} -m zk0.cli run {config} --name offline; code=$?; "
    script += f"kill $(cat {tmp_path}/prefect/server.pid); exit $code"
    done = subprocess.run(
        ["unshare", "-n", "bash", "-c", script],
        env={**os.environ, **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "outputs" / "offline" / "final" / "config.json").is_file()
