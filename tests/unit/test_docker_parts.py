"""The parts of the Docker executor that need no engine: what is visible, GPU turns, memory, deaths, the log."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from benchmarks.service import small_run
from tests.conftest import fill
from zk0.config import RunConfig, validate_config
from zk0.errors import ClientError, ConfigError, StorageError
from zk0.executors.choice import CheckedExecutor
from zk0.executors.docker import check, inside, visible
from zk0.executors.docker.check import check_container, settle_places
from zk0.executors.docker.death import TIMED_OUT, outcome
from zk0.executors.docker.gpu_turns import all_gpus, gpu_turn
from zk0.executors.docker.log_tail import LONGEST_LINE, LogTail
from zk0.executors.docker.mem_limit import held_bytes
from zk0.executors.docker.settings import OOM_KILLS_LABEL, USER, common_settings, user, wanted_gpus
from zk0.files.untrusted import LONGEST_WORDS
from zk0.memory.usage import GIB, container_share
from zk0.runs.store import RunStore
from zk0.runs.versions import PACKAGES, package_version
from zk0.work.failure import leave_failure
from zk0.work.records import ArtifactRef, ClientResult, ClientTask, TaskKind

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
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"HUGGINGFACE_HUB_CACHE": "/legacy/hub", "HF_HOME": "$SCRATCH/hf", "SCRATCH": "/scratch"},
        {"HF_HUB_CACHE": "$SCRATCH/hub", "SCRATCH": "/scratch", "HF_LEROBOT_HOME": "~/robots"},
    ],
)
def test_the_caches_are_where_their_libraries_have_them(changes: dict[str, str]) -> None:
    code = """
    import sys
    from zk0.executors.docker import visible
    assert not {"torch", "lerobot"} & set(sys.modules)
    found = [visible.environment()["HF_HUB_CACHE"], str(visible._lerobot_home())]
    from huggingface_hub.constants import HF_HUB_CACHE
    from lerobot.utils.constants import HF_LEROBOT_HOME
    assert found == [HF_HUB_CACHE, str(HF_LEROBOT_HOME)], (found, HF_HUB_CACHE, HF_LEROBOT_HOME)
    """
    ours = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_LEROBOT_HOME", "XDG_CACHE_HOME")
    environment = {key: value for key, value in os.environ.items() if key not in ours}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path)} | changes
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environment, check=True)


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


def test_memory_is_shared_out_less_a_reserve() -> None:
    assert container_share(32 * GIB, 20 * GIB, 1) == pytest.approx(16.8 * GIB, abs=1)
    assert container_share(8 * GIB, 6 * GIB, 2) == 2 * GIB
    assert container_share(8 * GIB, GIB, 4) == GIB


def test_what_a_container_holds_is_without_pages_that_the_kernel_would_drop() -> None:
    assert held_bytes({"usage": 5 * GIB, "stats": {"total_inactive_file": 3 * GIB, "inactive_file": GIB}}) == 2 * GIB
    assert held_bytes({"usage": 5 * GIB, "stats": {"inactive_file": GIB}}) == 4 * GIB
    assert held_bytes({}) == 0, "it has ended"


def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: str) -> None:
    """A tool of that name that lists these GPUs."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\nprintf '{printed}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")


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


def test_a_gpu_has_one_container_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with gpu_turn(["0", "1"], set) as first, gpu_turn(["0", "1"], set) as second:
        assert (first, second) == ("0", "1")
    with gpu_turn(["0", "1"], lambda: {"0"}) as free:
        assert free == "1", "a container without an orchestrator uses GPU 0"
    with gpu_turn([], set) as none:
        assert none is None


def test_index_and_uuid_of_a_gpu_are_one_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    nvidia_smi(tmp_path, monkeypatch, "0, GPU-a\\n1, GPU-b\\n")
    assert all_gpus() == ["0", "1"]
    with gpu_turn(["0"], set) as first, gpu_turn(["GPU-a", "GPU-b"], set) as second:
        assert (first, second) == ("0", "GPU-b")
    with gpu_turn(["1", "0"], lambda: {"GPU-b"}) as free:
        assert free == "0"
    with gpu_turn(["GPU-a", "GPU-b"], lambda: {"0", ""}) as free:
        assert free == "GPU-b"


def test_a_dead_holder_frees_its_gpu_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
    import time
    from zk0.executors.docker.gpu_turns import gpu_turn
    with gpu_turn(["99"], set):
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
    assert [path.name for path in tmp_path.glob("zk0-gpu-*")] == ["zk0-gpu-99.lock"]
    with gpu_turn(["99"], set) as gpu:  # an index that no machine has, so no UUID's lock
        assert gpu == "99"


def test_ctrl_c_in_a_comparison_ends_its_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def run(self, made: ClientTask) -> ClientResult:
            raise KeyboardInterrupt

    ended: list[str] = []
    monkeypatch.setattr("zk0.executors.docker.executor.stop_containers", ended.append)
    monkeypatch.setattr(CheckedExecutor, "_executor", Interrupted())
    made = task(config(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        CheckedExecutor(config(tmp_path)).run(made)
    assert ended == [made.run_dir]


KERNEL_KILLS = 7
"""What the kernel counts on the machine when a container has ended."""


def state(code: int, *, oom: bool = False, error: str = "", kills: int = 0) -> dict[str, Any]:
    """What the engine says of an ended container; `kills`: by the kernel, on the machine, since it was made."""
    return {
        "Config": {"Labels": {OOM_KILLS_LABEL: str(KERNEL_KILLS - kills)}},
        "State": {"ExitCode": code, "OOMKilled": oom, "Error": error, "Status": "exited"},
        "HostConfig": {"Memory": 2 * GIB},
    }


@pytest.mark.parametrize(
    ("attributes", "cause", "words"),
    [
        (state(137, oom=True), "out_of_memory", r"limit of 2\.00 GiB"),
        (state(1, oom=True), "out_of_memory", r"limit of 2\.00 GiB"),
        (state(137), "lost", "SIGKILL"),
        (state(143, kills=1), "lost", "SIGTERM"),
        (state(143), "lost", "SIGTERM"),
        (state(TIMED_OUT), "timeout", r"executor\.timeout_s = 9 s"),
        (state(127, error="exec: python: not found"), "error", "python: not found"),
        (state(1), "error", r"ValueError: odd \(exit code 1; see .*client\.log\)"),
        ({}, "lost", "removed by someone"),
    ],
)
def test_deaths_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attributes: dict[str, Any], cause: str, words: str
) -> None:
    monkeypatch.setattr("zk0.executors.docker.death.machine_oom_kills", lambda: KERNEL_KILLS)
    made = task(config(tmp_path))
    made.folder.mkdir(parents=True)
    (made.folder / "client.log").write_text("Traceback\nValueError: odd\n\n")
    with pytest.raises(ClientError, match=words) as caught:
        outcome(made, attributes, 9)
    assert caught.value.cause == cause


@pytest.mark.parametrize(
    ("kills", "percent_in_use", "cause", "words"),
    [
        (1, 97.5, "out_of_memory", r"the machine ran out of memory .* its limit of 2\.00 GiB"),
        (0, 97.5, "lost", "SIGKILL"),
        (1, 40.0, "lost", "SIGKILL"),
    ],
)
def test_a_kill_where_the_machine_is_full_is_out_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: int, percent_in_use: float, cause: str, words: str
) -> None:
    monkeypatch.setattr("zk0.executors.docker.death.machine_oom_kills", lambda: KERNEL_KILLS)
    made = task(config(tmp_path))
    made.folder.mkdir(parents=True)
    (made.folder / "memory.jsonl").write_text(
        f'{{"pid": 7, "ram_pct": 12.0}}\n{{"pid": 7, "ram_pct": {percent_in_use}}}\n'
    )
    with pytest.raises(ClientError, match=words) as caught:
        outcome(made, state(137, kills=kills), 9)
    assert caught.value.cause == cause


def test_a_worker_that_could_tell_is_believed(tmp_path: Path) -> None:
    made = task(config(tmp_path))
    made.folder.mkdir(parents=True)
    leave_failure(made, ClientError("bad_data", "the loss is nan"))
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


@pytest.fixture
def told() -> Iterator[list[str]]:
    lines: list[str] = []
    handle = logger.add(lambda message: lines.append(message.record["message"]), level="INFO")
    yield lines
    logger.remove(handle)


@pytest.mark.parametrize("how", ["emptied", "replaced", "removed"])
def test_a_rotated_log_is_told_from_its_beginning(tmp_path: Path, told: list[str], how: str) -> None:
    log = tmp_path / "client.log"
    log.write_text("first\nsecond\nthird and torn")
    tail = LogTail(log, "kitchen")
    if how == "replaced":
        log.rename(tmp_path / "client.old.log")
    elif how == "removed":
        log.unlink()
        tail.forward()
        (tmp_path / "other").touch()  # takes the inode, which would else come back
    words = "anew\n" if how == "emptied" else "anew\n" + "longer than the one before\n" * 2
    log.write_text(words)
    tail.forward()
    with log.open("a") as file:
        file.write("and on\n")
    tail.forward()
    assert told == [f"kitchen: {line}" for line in [*words.splitlines(), "and on"]]


def test_a_line_without_an_end_is_told_and_cut(tmp_path: Path, told: list[str]) -> None:
    log = tmp_path / "client.log"
    tail = LogTail(log, "kitchen")
    lines = ["x" * index + str(index) for index in range(400)]
    log.write_text("\n".join(lines) + "\n" + "y" * 2 * LONGEST_LINE)
    tail.forward()
    assert told[:400] == [f"kitchen: {line}" for line in lines]
    assert told[400:] == ["kitchen: " + "y" * LONGEST_WORDS]
    with log.open("a") as file:
        file.write("and on\nend\n")
    tail.forward()
    assert told[401:] == ["kitchen: and on", "kitchen: end"]
