"""What a client can reach from inside its container, tried there with exactly the settings that the executor uses."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docker.conftest import Engine
from zk0.config import RunConfig
from zk0.errors import ClientError, ConfigError
from zk0.executors.docker import executor
from zk0.executors.docker.check import check_engine, mount_warnings, output_of
from zk0.executors.docker.executor import hand_over
from zk0.executors.docker.settings import container_settings
from zk0.runs.store import RunStore
from zk0.work.attempts import failed_causes, note_failure
from zk0.work.lock import is_held
from zk0.work.records import ArtifactRef, ClientTask

pytestmark = pytest.mark.docker
GIB = 2**30
Probe = Callable[[str], Any]


@pytest.fixture
def work(docker_config: Callable[..., RunConfig]) -> tuple[ClientTask, RunConfig]:
    """A fit of `kitchen`, with another client's folder and update beside it."""
    config = docker_config(executor__docker__cpus=1.5)
    store = RunStore.create_or_open(config, "probed")
    other = store.round_folder(1) / "clients" / "workshop"
    other.mkdir(parents=True)
    (other / "update.safetensors").write_bytes(b"private")
    incoming = store.round_folder(0) / "global.safetensors"
    incoming.parent.mkdir()
    incoming.write_bytes(b"weights")
    task = store.task("train", 1, "kitchen")
    ref = ArtifactRef(path="rounds/0000/global.safetensors", sha256="0" * 64, size=7)
    return task.model_copy(update={"incoming": ref}), config


@pytest.fixture
def probe(docker_host: Engine, work: tuple[ClientTask, RunConfig]) -> Probe:
    """Run Python code in the container of the work; gives the value that it leaves in `found`."""
    return lambda code: run_inside(docker_host, *work, code)


def run_inside(engine: Engine, task: ClientTask, config: RunConfig, code: str) -> Any:
    """What Python code in the container of some work leaves in `found`."""
    settings = container_settings(task, config, None, GIB)
    hand_over(settings["mounts"])
    lines = f"import json, os, pathlib, socket\n{code}\nprint(json.dumps(found))"
    client = engine.client
    try:
        output = output_of(client, settings | {"entrypoint": ["python", "-c", lines], "command": []})
    finally:
        client.close()
    return json.loads(output)


def test_it_is_not_root_and_has_no_capabilities(probe: Probe) -> None:
    found = probe("found = [os.getuid(), os.getgid(), pathlib.Path('/proc/self/status').read_text()]")
    uid, gid, status = found
    assert uid != 0
    assert gid != 0
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert {int(fields[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapInh")} == {0}
    assert fields["NoNewPrivs"] == "1"


def test_there_is_no_route_out(probe: Probe) -> None:
    code = """
found = {'devices': [line.split(':')[0].strip() for line in open('/proc/net/dev').readlines()[2:]]}
try:
    socket.create_connection(('192.0.2.1', 80), timeout=5)
except OSError as error:
    found['error'] = error.errno
"""
    found = probe(code)
    assert found["error"] == 101  # ENETUNREACH
    assert "eth0" not in found["devices"]
    assert "lo" in found["devices"]


def test_only_its_own_folder_can_be_written(probe: Probe, work: tuple[ClientTask, RunConfig]) -> None:
    task, config = work
    run = Path(task.run_dir)
    folders = {
        "own": task.folder,
        "run": run,
        "round": task.folder.parent.parent,
        "incoming": run / "rounds" / "0000",
        "recording": config.clients[0].root,
        "root": "/",
        "usr": "/usr",
        "etc": "/etc",
    }
    files = [str(run / "run.json"), str(run / "rounds" / "0000" / "global.safetensors")]
    code = f"""
found = {{}}
for name, folder in { ({name: str(folder) for name, folder in folders.items()})!r}.items():
    try:
        (pathlib.Path(folder) / 'written').write_text('x')
        found[name] = 'written'
    except OSError:
        found[name] = 'refused'
for file in {files!r}:
    try:
        open(file, 'r+').close()
        found[file] = 'written'
    except OSError:
        found[file] = 'refused'
"""
    found = probe(code)
    assert found.pop("own") == "written"
    assert set(found.values()) == {"refused"}, found
    assert (task.folder / "written").read_text() == "x"


def test_other_clients_are_not_visible(probe: Probe, work: tuple[ClientTask, RunConfig]) -> None:
    task, config = work
    mine, others = (str(client.root) for client in config.clients)
    clients = str(task.folder.parent)
    code = f"""
found = {{
    'mine': sorted(os.listdir({mine!r})),
    'others': os.path.exists({others!r}),
    'beside': sorted(os.listdir({str(Path(mine).parent)!r})),
    'clients': sorted(os.listdir({clients!r})),
}}
"""
    found = probe(code)
    assert "meta" in found["mine"]
    assert found["others"] is False
    assert found["beside"] == ["kitchen"]
    assert found["clients"] == ["kitchen"]


def test_neither_the_engine_nor_other_processes_can_be_reached(probe: Probe) -> None:
    code = """
pids = [int(name) for name in os.listdir('/proc') if name.isdigit()]
found = {'processes': len(pids), 'socket': os.path.exists('/var/run/docker.sock')}
"""
    found = probe(code)
    assert found["processes"] <= 3, "its init, and itself"
    assert found["socket"] is False


def test_what_it_leaves_is_not_followed(
    docker_host: Engine, work: tuple[ClientTask, RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own folder is full of traps: the executor, which may be root, neither writes through them nor waits there."""
    task, config = work
    outside = tmp_path / "outside"
    outside.write_text("mine\n")
    code = f"""
import os
for name in ('client.log', 'attempts.jsonl', 'train.lock', 'train.json'):
    if os.path.lexists(name): os.unlink(name)
    os.symlink({str(outside)!r}, name)
os.mkfifo('train.failed.json')
print('printed by the container', flush=True)
os._exit(4)
"""
    made = container_settings(task, config, None, GIB)
    made |= {"entrypoint": ["python", "-c", code], "command": [], "working_dir": str(task.folder)}
    monkeypatch.setattr(executor, "container_settings", lambda *_: made)
    with pytest.raises(ClientError, match=r"printed by the container.*only this work has failed") as caught:
        executor.DockerExecutor(config).run(task)
    note_failure(task, caught.value)
    assert not is_held(task)
    assert outside.read_text() == "mine\n"
    assert failed_causes(task.folder, "train") == ["error"]
    assert docker_host.containers() == []


def test_the_client_dies_before_the_machine_does(probe: Probe) -> None:
    code = """
def first(*paths):
    return next(pathlib.Path(path).read_text() for path in paths if os.path.exists(path))
found = [
    first('/proc/self/oom_score_adj'),
    first('/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory/memory.limit_in_bytes'),
    os.statvfs('/dev/shm').f_blocks * os.statvfs('/dev/shm').f_frsize,
]
"""
    score, limit, shared = probe(code)
    assert int(score) == 500
    assert int(limit) == GIB
    assert shared == pytest.approx(10.24 * GIB, rel=0.01)


def test_its_processes_swap_and_processor_time_are_bounded(probe: Probe) -> None:
    code = """
def first(*paths):
    return next((pathlib.Path(path).read_text() for path in paths if os.path.exists(path)), None)
found = {
    'processes': first('/sys/fs/cgroup/pids.max', '/sys/fs/cgroup/pids/pids.max'),
    'processors': first('/sys/fs/cgroup/cpu.max'),
    'quota': first('/sys/fs/cgroup/cpu/cpu.cfs_quota_us'),
    'period': first('/sys/fs/cgroup/cpu/cpu.cfs_period_us'),
    'swap': first('/sys/fs/cgroup/memory.swap.max'),
    'with swap': first('/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes'),
}
"""
    found = probe(code)
    assert int(found["processes"]) == 4096
    quota, period = found["processors"].split() if found["processors"] else (found["quota"], found["period"])
    assert int(quota) / int(period) == 1.5
    assert int(found["swap"] or 0) == 0  # the kernel may not count swap
    assert int(found["with swap"] or GIB) == GIB


def test_home_and_tmp_are_in_memory(probe: Probe) -> None:
    code = """
kinds = {line.split()[1]: line.split()[2] for line in open('/proc/mounts')}
found = [kinds.get(os.environ['HOME']), kinds.get('/tmp')]
for folder in (os.environ['HOME'], '/tmp'):
    (pathlib.Path(folder) / 'written').write_text('x')
"""
    assert probe(code) == ["tmpfs", "tmpfs"]


def test_the_engine_bounds_its_log_and_swap(docker_host: Engine, work: tuple[ClientTask, RunConfig]) -> None:
    """What cannot be seen from the inside."""
    settings = container_settings(*work, None, GIB)
    hand_over(settings["mounts"])
    client = docker_host.client
    try:
        container = client.containers.create(**settings)
        made = container.attrs["HostConfig"]
        container.remove()
    finally:
        client.close()
    assert made["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}
    assert made["MemorySwap"] == made["Memory"] == GIB


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A folder in which another file system is mounted, at `inner`, where everyone may write."""
    inner = tmp_path / "shared folder" / "inner"
    inner.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "mode=0777", "none", inner], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.decode()}")
    for folder in (inner, inner.parent):
        folder.chmod(0o777)
        (folder / "note").write_text("x")
    yield inner.parent
    subprocess.run(["umount", inner], check=True)


def test_what_is_mounted_inside_a_folder_is_seen_where_it_is_named_and_never_written(
    docker_host: Engine, docker_config: Callable[..., RunConfig], shared: Path
) -> None:
    inner = shared / "inner"
    code = f"""
found = {{}}
for folder in {[str(shared), str(inner)]!r}:
    try:
        (pathlib.Path(folder) / 'written').write_text('x')
        found[folder] = 'written'
    except OSError:
        found[folder] = os.path.exists(folder + '/note')
"""

    def seen(*mounts: Path) -> Any:
        more = [*docker_config().executor.docker.mounts, *map(str, mounts)]
        config = docker_config(executor__docker__mounts=more)
        task = RunStore.create_or_open(config, "probed").task("train", 1, "kitchen")
        return run_inside(docker_host, task, config, code)

    assert seen(shared) == {str(shared): True, str(inner): False}
    assert seen(shared, inner) == {str(shared): True, str(inner): True}


def test_what_is_mounted_inside_a_folder_is_told_beforehand(
    docker_host: Engine, docker_config: Callable[..., RunConfig], shared: Path
) -> None:
    inner = shared / "inner"
    (warning,) = mount_warnings(docker_config(executor__docker__mounts=[str(shared)]))
    assert str(inner) in warning
    assert mount_warnings(docker_config(executor__docker__mounts=[str(shared), str(inner)])) == []

    def with_data_there(*mounts: Path) -> RunConfig:
        config = docker_config(executor__docker__mounts=[str(path) for path in mounts])
        clients = [client.model_copy(update={"root": str(shared)}) for client in config.clients]
        return config.model_copy(update={"clients": clients})

    with pytest.raises(ConfigError, match=r"inner: another file system.*add its path to executor\.docker\.mounts"):
        check_engine(with_data_there())
    check_engine(with_data_there(inner))
