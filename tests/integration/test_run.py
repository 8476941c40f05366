"""`zk0 run`: rounds through Prefect, reproducible bytes, and going on after a kill."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable

import httpx
import psutil
import pytest
from safetensors.numpy import load_file

from benchmarks.service import CLIENTS, CommandLine
from tests.integration.conftest import kill, worker_of

pytestmark = pytest.mark.slow


def test_a_run_ends_with_a_policy_and_its_baseline(zk0: CommandLine, reference: str) -> None:
    rounds = zk0.metrics("reference")
    assert [line["server_round"] for line in rounds] == [0, 1, 2]
    assert {"kitchen", "workshop"} == set(rounds[0]["evaluate"]) == set(rounds[2]["train"])
    joints = rounds[2]["evaluate"]["kitchen"]["joint_error"]
    assert set(joints) == {"shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"}
    assert (zk0.outputs / "reference" / "final" / "adapter_model.safetensors").is_file()
    assert "round 0 (the base) -> round 2" in reference
    assert zk0.environment["PREFECT_API_URL"].removesuffix("/api") in reference


def test_prefect_shows_rounds_and_clients_and_nothing_else(zk0: CommandLine, reference: str) -> None:
    api = zk0.environment["PREFECT_API_URL"]
    flows = httpx.post(f"{api}/flow_runs/filter", json={"limit": 200}, trust_env=False).json()
    tasks = httpx.post(f"{api}/task_runs/filter", json={"limit": 200}, trust_env=False).json()

    def bars(flow_run_id: str) -> dict[str, str]:
        """What its timeline draws."""
        graph = httpx.get(f"{api}/flow_runs/{flow_run_id}/graph-v2", trust_env=False).json()
        return {node["label"]: node["id"] for _, node in graph["nodes"]}

    (run,) = (flow["id"] for flow in flows if flow["name"] == "reference")
    rounds = bars(run)
    assert set(rounds) == {f"round / round-{number:03d}" for number in range(3)}
    for number in range(3):
        steps = ["evaluate"] if number == 0 else ["fit", "evaluate"]
        wanted = {f"{step}-{number:03d}-{client}" for step in steps for client in ("kitchen", "workshop")}
        assert set(bars(rounds[f"round / round-{number:03d}"])) == wanted
    largest = max(len(json.dumps(task["task_inputs"])) for task in tasks)
    assert largest < 10_000, "something large went through Prefect"


@pytest.mark.exhaustive
def test_the_same_config_gives_the_same_bytes(zk0: CommandLine, reference: str) -> None:
    zk0.run("run", zk0.config(executor__max_parallel=1), "--name", "again")
    assert zk0.digest("again", 2) == zk0.digest("reference", 2)


@pytest.mark.exhaustive
def test_another_seed_gives_other_bytes(zk0: CommandLine, reference: str) -> None:
    zk0.run("run", zk0.config(), "--name", "other-seed", "--set", "seed=8", "--set", "federation.num_rounds=1")
    assert zk0.digest("other-seed", 0) != zk0.digest("reference", 0)
    assert zk0.digest("other-seed", 1) != zk0.digest("reference", 1)


def test_after_a_kill_the_same_command_goes_on(zk0: CommandLine, reference: str) -> None:
    command = ("run", zk0.config(executor__max_parallel=1), "--name", "killed")
    folder = zk0.outputs / "killed" / "rounds" / "0002" / "clients"
    kill(zk0.start_until((folder / "kitchen" / "train.json").is_file, *command))
    first_fit = zk0.result("killed", 2, "kitchen")
    first_round = zk0.result("killed", 1, "kitchen")
    output = zk0.run(*command)
    assert "goes on after round 1 of 2" in output
    assert zk0.result("killed", 2, "kitchen") == first_fit, "a finished fit was run twice"
    assert zk0.result("killed", 1, "kitchen") == first_round, "a committed round was run twice"
    assert zk0.digest("killed", 2) == zk0.digest("reference", 2)


@pytest.mark.exhaustive
def test_what_rounds_hand_on_survives_a_kill(zk0: CommandLine) -> None:
    """A server's moments, kept optimizers, frozen factors, own statistics, adaptive schedules: all of them at once."""
    config = zk0.config(
        federation__num_rounds=3,
        federation__strategy="fedyogi",
        peft__aggregation="ffa",
        data__normalization="own",
        training__steps=4,
        training__optimizer_state="keep",
        training__scheduler="cosine",
        training__amp="bf16",
        evaluation__full_every=2,
        adaptive__plateau_patience=0,
        adaptive__boost_max=2.0,
    )
    zk0.run("run", config, "--name", "much-undisturbed")
    folder = zk0.outputs / "much-killed" / "rounds" / "0002" / "clients"
    command = ("run", config, "--name", "much-killed")
    kill(zk0.start_until((folder / "kitchen" / "progress.json").is_file, *command))
    zk0.run(*command)
    for server_round in range(4):
        assert zk0.digest("much-killed", server_round) == zk0.digest("much-undisturbed", server_round)


@pytest.mark.exhaustive
def test_a_fit_under_way_is_adopted(zk0: CommandLine, reference: str) -> None:
    """The orchestrator dies, its worker does not: the next orchestrator waits for it instead of starting another."""
    command = ("run", zk0.config(training__steps=40, federation__num_rounds=1), "--name", "adopted")
    folder = zk0.outputs / "adopted" / "rounds" / "0001" / "clients" / "kitchen"
    process = zk0.start_until((folder / "progress.json").is_file, *command)
    worker = worker_of(folder, "train")
    kill(process)
    assert worker is not None
    assert worker.is_running()
    zk0.run(*command)
    assert zk0.result("adopted", 1, "kitchen").pid == worker.pid


@pytest.mark.exhaustive
def test_a_killed_worker_is_tried_again(zk0: CommandLine, reference: str) -> None:
    folder = zk0.outputs / "worker-killed" / "rounds" / "0001" / "clients" / "workshop"
    process = zk0.start_until((folder / "progress.json").is_file, "run", zk0.config(), "--name", "worker-killed")
    worker = worker_of(folder, "train")
    if worker is not None:
        os.kill(worker.pid, signal.SIGKILL)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert zk0.digest("worker-killed", 2) == zk0.digest("reference", 2)
    assert "SIGKILL" in (zk0.outputs / "worker-killed" / "run.log").read_text()


def fork_server_of(process: subprocess.Popen[str]) -> psutil.Process | None:
    children = psutil.Process(process.pid).children()
    return next((child for child in children if "multiprocessing.forkserver" in " ".join(child.cmdline())), None)


@pytest.mark.exhaustive
def test_the_death_of_the_fork_server_is_no_clients_failure(zk0: CommandLine) -> None:
    config = zk0.config(training__steps=20, federation__num_rounds=1, executor__max_retries=0)
    clients = zk0.outputs / "forked" / "rounds" / "0001" / "clients"
    process = zk0.start("run", config, "--name", "forked")

    def kill_fork_server_when(seen: Callable[[], bool]) -> None:
        while not seen() or (server := fork_server_of(process)) is None:
            assert process.poll() is None
            time.sleep(0.05)
        server.kill()

    kill_fork_server_when(lambda: True)  # while it imports, and a worker waits to be started
    kill_fork_server_when(lambda: all((clients / name / "progress.json").is_file() for name in CLIENTS))
    workers = [worker_of(clients / name, "train") for name in CLIENTS]
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    assert [zk0.result("forked", 1, name).pid for name in CLIENTS] == [worker.pid for worker in workers if worker]
    assert not list(clients.glob("*/attempts.jsonl"))


def test_a_second_orchestrator_is_told_who_holds_the_run(zk0: CommandLine, reference: str) -> None:
    command = ("run", zk0.config(training__steps=30), "--name", "held")
    holder = zk0.start_until((zk0.outputs / "held" / "rounds" / "0000" / "manifest.json").is_file, *command)
    output = zk0.run(*command, exit_code=2)
    assert str(holder.pid) in output
    kill(holder)


def test_ctrl_c_is_an_interruption_that_can_be_resumed(zk0: CommandLine, reference: str) -> None:
    """The terminal sends the signal to the orchestrator and its workers alike."""
    command = ("run", zk0.config(), "--name", "interrupted")
    folder = zk0.outputs / "interrupted" / "rounds" / "0001" / "clients"
    process = zk0.start_until((folder / "kitchen" / "progress.json").is_file, *command)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "the same command goes on" in output
    zk0.run(*command)
    assert zk0.digest("interrupted", 2) == zk0.digest("reference", 2)


def test_a_finished_run_is_left_alone(zk0: CommandLine, reference: str) -> None:
    before = (zk0.outputs / "reference" / "rounds" / "0002" / "manifest.json").stat().st_mtime_ns
    zk0.run("run", zk0.config(), "--name", "reference")
    assert (zk0.outputs / "reference" / "rounds" / "0002" / "manifest.json").stat().st_mtime_ns == before


def test_a_name_in_use_by_another_config_is_refused(zk0: CommandLine, reference: str) -> None:
    files = sorted((zk0.outputs / "reference").rglob("*"))
    output = zk0.run("run", zk0.config(), "--name", "reference", "--set", "training.steps=3", exit_code=2)
    assert "training.steps is 2 there, 3 here" in " ".join(output.split())
    assert sorted((zk0.outputs / "reference").rglob("*")) == files


def test_status_speaks_for_people_and_programs(zk0: CommandLine, reference: str) -> None:
    assert "finished" in zk0.run("status", "reference", "--outputs", zk0.outputs)
    record = json.loads(zk0.run("status", "reference", "--outputs", zk0.outputs, "--json"))
    assert (record["state"], record["committed_rounds"]) == ("finished", 3)


@pytest.mark.exhaustive
def test_an_unfinished_run_goes_on_without_a_name(zk0: CommandLine) -> None:
    config = zk0.config(seed=99, federation__num_rounds=1, outputs_dir=str(zk0.folder / "unnamed"))
    folder = zk0.folder / "unnamed"

    def committed() -> bool:
        return any(folder.glob("*/rounds/0000/manifest.json"))

    kill(zk0.start_until(committed, "run", config))
    time.sleep(1)
    output = zk0.run("run", config)
    assert "going on with the unfinished run" in output
    assert len(list(folder.iterdir())) == 1


@pytest.mark.exhaustive
def test_a_worker_killed_in_the_midst_of_a_rollout_gives_the_same_figures(zk0: CommandLine) -> None:
    bench: dict[str, object] = {"name": "bench", "type": "zk0_so101", "plugin": "zk0.sim"}
    bench |= {"options": {"setting": "base"}, "episodes": 8, "first_seed": 90_000, "videos": 1}
    changes = {"federation__num_rounds": 1, "training__steps": 1, "evaluation__environments": [bench]}
    zk0.run("run", zk0.config(**changes), "--name", "rolled-out")
    folder = zk0.outputs / "rolled-out-killed" / "rounds" / "0001" / "clients" / "bench"
    command = ("run", zk0.config(**changes), "--name", "rolled-out-killed")
    process = zk0.start_until((folder / "videos" / "eval_episode_0.mp4").is_file, *command)
    worker = worker_of(folder, "rollout")
    assert worker is not None
    worker.kill()
    kill(process)
    assert not (folder / "rollout.json").exists(), "it was killed too late"
    zk0.run(*command)
    figures = [zk0.metrics(name)[1] for name in ("rolled-out", "rolled-out-killed")]
    same = [
        [line["rollout"]["bench"][key] for key in ("successes", "episodes", "success_rate", "interval_95")]
        + [line["global_sha256"], line["summary"]["success_rate"], line["summary"]["interval_95"]]
        for line in figures
    ]
    assert same[0] == same[1]
    assert figures[0]["rollout"]["bench"]["successes"] > 0
    assert zk0.digest("rolled-out", 1) == zk0.digest("rolled-out-killed", 1)


@pytest.mark.exhaustive
def test_old_rounds_are_pruned_but_not_the_base_the_best_and_the_last(zk0: CommandLine) -> None:
    options = {"setting": "base", "episode_length": 10}
    bench = {"name": "bench", "type": "zk0_so101", "plugin": "zk0.sim", "options": options, "episodes": 1, "videos": 1}
    config = zk0.config(
        federation__num_rounds=4,
        training__steps=1,
        checkpoint__keep=2,
        evaluation__frame_stride=40,
        evaluation__environments=[bench],
    )
    zk0.run("run", config, "--name", "pruned")
    rounds = zk0.outputs / "pruned" / "rounds"
    kept = {int(path.name) for path in rounds.iterdir()}
    errors = {line["server_round"]: line["summary"]["action_error_deg"] for line in zk0.metrics("pruned")}
    assert kept == {0, 3, 4, min(errors, key=lambda number: errors[number])}
    assert {int(path.parts[-5]) for path in rounds.rglob("*.mp4")} == kept


def test_only_adapters_travel_in_fp32_by_name(zk0: CommandLine, reference: str) -> None:
    tensors = load_file(zk0.outputs / "reference" / "rounds" / "0002" / "global.safetensors")
    assert {value.dtype.name for value in tensors.values()} == {"float32"}
    assert all("lora_" in name for name in tensors)
    assert any(value.any() for name, value in tensors.items() if "lora_B" in name)
