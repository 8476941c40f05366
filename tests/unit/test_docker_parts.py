"""The parts of the Docker executor that need no engine: what is visible, GPU turns, memory, deaths, the log."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from benchmarks.service import small_run
from tests.conftest import fill
from zk0.config import RunConfig, validate_config
from zk0.errors import ClientError, ConfigError, StorageError
from zk0.executors import worker
from zk0.executors.docker import visible
from zk0.executors.docker.check import check_container, settle_places
from zk0.executors.docker.death import TIMED_OUT, outcome
from zk0.executors.docker.gpu_turns import gpu_turn
from zk0.executors.docker.log_tail import LogTail
from zk0.executors.docker.mem_limit import held_bytes
from zk0.executors.docker.settings import USER, common_settings, user, wanted_gpus
from zk0.memory import GIB, container_share
from zk0.records import ArtifactRef, ClientTask, TaskKind
from zk0.run_store import RunStore

INCOMING = ArtifactRef(path="rounds/0000/global.safetensors", sha256="0" * 64, size=1)
STATS = ArtifactRef(path="rounds/0000/stats.safetensors", sha256="0" * 64, size=1)


def config(tmp_path: Path, **changes: Any) -> RunConfig:
    data = small_run(tmp_path / "outputs", executor__kind="docker", **changes)
    for client in data["clients"]:
        client["root"] = str(tmp_path / client["name"])
    return validate_config(data)


def task(settings: RunConfig, kind: TaskKind = "train", client: str = "kitchen") -> ClientTask:
    made = RunStore.create_or_open(settings, "a-run").task(kind, 1, client)
    return made.model_copy(update={"incoming": INCOMING, "stats": STATS} if kind in ("train", "evaluate") else {})


def seen(made: ClientTask, settings: RunConfig) -> dict[str, bool]:
    """Path below the test's folder -> whether it may be written."""
    return {bind.target: bind.writable for bind in visible.binds(made, settings) if "models--" not in bind.target}


def test_a_fit_sees_its_own_data_and_writes_its_own_folder(tmp_path: Path) -> None:
    run = tmp_path / "outputs" / "a-run"
    assert seen(task(config(tmp_path)), config(tmp_path)) == {
        str(run / "run.json"): False,
        str(run / INCOMING.path): False,
        str(run / STATS.path): False,
        str(run / "rounds/0001/clients/kitchen"): True,
        str(tmp_path / "kitchen"): False,
    }


def test_init_sees_the_round_it_continues_from_and_may_write_a_new_base(tmp_path: Path) -> None:
    scratch = {"policy": {"type": "act"}, "peft": {"enabled": False}, "data": {"normalization": "federated"}}
    settings = config(tmp_path, continue_from="earlier@7", **scratch)
    found = seen(task(settings, "init", "server"), settings)
    outputs = tmp_path / "outputs"
    assert found[str(outputs / "a-run" / "base")] is True
    assert found[str(outputs / "earlier" / "rounds" / "0007")] is False
    assert found[str(outputs / "earlier" / "run.json")] is False
    assert seen(task(settings), settings)[str(outputs / "a-run" / "base")] is False
    assert str(tmp_path / "workshop") not in found


@pytest.mark.slow
def test_a_dataset_of_the_hub_is_seen_where_lerobot_looks_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held against LeRobot itself: the cache's layout, links and all, mounted as the executor does, opens offline."""
    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    data = small_run(tmp_path / "outputs")
    data["clients"] = [{"name": "kitchen", "repo_id": "zk0/kitchen"}]
    data["federation"]["min_train_clients"] = 1
    settings = validate_config(data)
    with pytest.raises(ClientError, match=r"zk0/kitchen is not on this machine.*zk0 check-data") as caught:
        visible.binds(task(settings), settings)
    assert caught.value.cause == "bad_data"
    snapshot = fetched(tmp_path / "cache")
    binds = {bind.target: bind.source for bind in visible.binds(task(settings), settings)}
    assert binds["/data/lerobot/zk0/kitchen"] == str(snapshot)
    inside = tmp_path / "inside"
    for target in ("/data/lerobot/zk0/kitchen", "/data/lerobot/blobs"):
        (inside / target[1:]).parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", binds[target], inside / target[1:]], check=True)
    code = (
        "from lerobot.datasets.lerobot_dataset import LeRobotDataset as D; print(len(D('zk0/kitchen', episodes=[0])))"
    )
    environment = {**os.environ, **visible.environment(), "HF_LEROBOT_HOME": str(inside / "data/lerobot")}
    environment |= {"HF_DATASETS_CACHE": str(tmp_path / "arrow")}
    opened = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=400
    )
    assert opened.returncode == 0, opened.stderr[-2000:]
    assert int(opened.stdout.split()[-1]) > 10


def fetched(cache: Path) -> Path:
    """A dataset as huggingface_hub stores it: blobs, and a snapshot of links."""
    from zk0.config import resolve_path

    folder = cache / "hub" / "datasets--zk0--kitchen"
    snapshot = folder / "snapshots" / "abc"
    (folder / "blobs").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "v3.0").write_text("abc")
    origin = resolve_path("asset:datasets/kitchen")
    for number, source in enumerate(path for path in sorted(origin.rglob("*")) if path.is_file()):
        blob = folder / "blobs" / str(number)
        blob.write_bytes(source.read_bytes())
        link = snapshot / source.relative_to(origin)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def test_the_callers_user_is_kept_unless_it_is_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert user() == (USER, USER)
    monkeypatch.setattr(os, "getuid", lambda: 1234)
    monkeypatch.setattr(os, "getgid", lambda: 567)
    assert common_settings(config(tmp_path), None, GIB)["user"] == "1234:567"


def test_settings_are_what_the_config_says(tmp_path: Path) -> None:
    settings = config(tmp_path, executor__docker={"cpus": 1.5, "shm_size": "1g", "gpus": [3, "GPU-x"]})
    made = common_settings(settings, "3", 5 * GIB)
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


def test_cuda_without_a_gpu_is_refused(tmp_path: Path) -> None:
    settings = config(tmp_path, policy__device="cuda", executor__docker={"gpus": []})
    with pytest.raises(ConfigError, match=r"executor\.docker\.gpus = \[\]: policy\.device = 'cuda' needs one"):
        check_container(settings)


def test_memory_is_shared_out_less_a_reserve() -> None:
    assert container_share(32 * GIB, 20 * GIB, 1) == pytest.approx(16.8 * GIB, abs=1)
    assert container_share(8 * GIB, 6 * GIB, 2) == 2 * GIB
    assert container_share(8 * GIB, GIB, 4) == GIB


def test_what_a_container_holds_is_without_pages_that_the_kernel_would_drop() -> None:
    assert held_bytes({"usage": 5 * GIB, "stats": {"total_inactive_file": 3 * GIB, "inactive_file": GIB}}) == 2 * GIB
    assert held_bytes({"usage": 5 * GIB, "stats": {"inactive_file": GIB}}) == 4 * GIB
    assert held_bytes({}) == 0, "it has ended"


def test_there_are_as_many_places_as_gpus_unless_the_config_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\nprintf '0\\n1\\n2\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    silent = {"executor__max_parallel": None, "policy__device": "cuda"}
    assert settle_places(config(tmp_path, **silent)).executor.places == 3
    assert settle_places(config(tmp_path, **silent, executor__docker={"gpus": ["1", "2"]})).executor.places == 2
    assert settle_places(config(tmp_path, executor__max_parallel=None)).executor.places == 1, "it trains on the CPU"
    assert settle_places(config(tmp_path, policy__device="cuda")).executor.places == 2, "the config says so"
    assert config(tmp_path, executor__max_parallel=None).executor.places == 1, "nobody has settled it"


def test_a_gpu_has_one_container_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with gpu_turn(["0", "1"], set) as first, gpu_turn(["0", "1"], set) as second:
        assert (first, second) == ("0", "1")
    with gpu_turn(["0", "1"], lambda: {"0"}) as free:
        assert free == "1", "a container without an orchestrator uses GPU 0"
    with gpu_turn([], set) as none:
        assert none is None


def test_a_dead_holder_frees_its_gpu_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
    import time
    from zk0.executors.docker.gpu_turns import gpu_turn
    with gpu_turn(["0"], set):
        print("mine", flush=True)
        time.sleep(60)
    """
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        holder.kill()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert [path.name for path in tmp_path.glob("zk0-gpu-*")] == ["zk0-gpu-0.lock"]
    with gpu_turn(["0"], set) as gpu:
        assert gpu == "0"


def state(code: int, *, oom: bool = False, error: str = "") -> dict[str, Any]:
    return {
        "State": {"ExitCode": code, "OOMKilled": oom, "Error": error, "Status": "exited"},
        "HostConfig": {"Memory": 2 * GIB},
    }


@pytest.mark.parametrize(
    ("attributes", "cause", "words"),
    [
        (state(137, oom=True), "out_of_memory", r"limit of 2\.00 GiB"),
        (state(1, oom=True), "out_of_memory", r"limit of 2\.00 GiB"),
        (state(137), "lost", "SIGKILL"),
        (state(143), "lost", "SIGTERM"),
        (state(TIMED_OUT), "timeout", r"executor\.timeout_s = 9 s"),
        (state(127, error="exec: python: not found"), "error", "python: not found"),
        (state(1), "error", r"ValueError: odd \(exit code 1; see .*client\.log\)"),
        ({}, "lost", "removed by someone"),
    ],
)
def test_deaths_are_told_apart(tmp_path: Path, attributes: dict[str, Any], cause: str, words: str) -> None:
    made = task(config(tmp_path))
    made.folder.mkdir(parents=True)
    (made.folder / "client.log").write_text("Traceback\nValueError: odd\n\n")
    with pytest.raises(ClientError, match=words) as caught:
        outcome(made, attributes, 9)
    assert caught.value.cause == cause


def test_a_worker_that_could_tell_is_believed(tmp_path: Path) -> None:
    made = task(config(tmp_path))
    made.folder.mkdir(parents=True)
    worker.leave_failure(made, ClientError("bad_data", "the loss is nan"))
    with pytest.raises(ClientError, match="train of 'kitchen': the loss is nan") as caught:
        outcome(made, state(3), 9)
    assert caught.value.cause == "bad_data"


def test_a_disk_that_was_full_ends_the_run_and_no_client(tmp_path: Path, make_disk: Callable[[str], Path]) -> None:
    """And is still: that it was is a container's word alone, see test_foreign."""
    disk = make_disk("64k")
    made = task(config(disk))
    made.folder.mkdir(parents=True)
    fill(disk)
    with pytest.raises(StorageError, match="No space left on device; free some space"):
        outcome(made, state(4), 9)


def test_the_clients_lines_are_told_once_and_whole(tmp_path: Path) -> None:
    log = tmp_path / "client.log"
    log.write_text("from an attempt before\n")
    told: list[str] = []
    handle = logger.add(lambda message: told.append(message.record["message"]), level="INFO")
    try:
        tail = LogTail(log, "kitchen")
        prefix = "2026-11-21 22:00:00.000 | {} | kitchen | round 1 | PID:7 | RAM 1 GiB 1% | VRAM - | zk0.x:f:1 - "
        with log.open("a") as file:
            file.write(prefix.format("INFO") + "train starts - in round 1\n" + prefix.format("DEBUG") + "step\nTrace")
            file.flush()
            tail.forward()
            file.write("back\n")
            file.flush()
            tail.forward()
            tail.forward()
    finally:
        logger.remove(handle)
    assert told == ["kitchen: train starts - in round 1", "kitchen: Traceback"]
