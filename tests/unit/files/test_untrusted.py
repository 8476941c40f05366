"""A client's folder of the round with anything in it that a container could put there: the orchestrator stays whole."""

import fcntl
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import fill
from tests.unit.executors.docker.made import state
from tests.unit.runs.made import commit, fit, weights
from zk0.aggregation.admission import check_update
from zk0.config import RunConfig
from zk0.errors import ClientError, StorageError
from zk0.executors.docker.death import outcome
from zk0.executors.docker.executor import MOST_WORDS_BYTES, hand_over, keep_words
from zk0.executors.docker.log_tail import MOST_BYTES, LogTail
from zk0.executors.docker.settings import bind_mount
from zk0.executors.docker.visible import Bind
from zk0.executors.living import live_worker
from zk0.executors.worker import FAILURE_EXIT_CODE, STORAGE_EXIT_CODE
from zk0.files import atomic, untrusted
from zk0.layout import ATTEMPTS_FILE
from zk0.memory.samples import MAX_BYTES, killed_for_memory, last_words, read_samples
from zk0.report.joints import draw_joint_charts
from zk0.runs.progress import read_progress, status_json
from zk0.runs.store import RunStore
from zk0.work.attempts import READ_BYTES, failed_causes, note_failure
from zk0.work.failure import failure_path, leave_failure, read_failure
from zk0.work.lock import is_held, lock_path, worker_lock
from zk0.work.log import client_log, last_line
from zk0.work.records import ArtifactRef, ClientTask
from zk0.work.results import ROOM_BYTES, find_finished, write_result

pytestmark = pytest.mark.timeout(60)
HUGE = 2**40
ODD = ("fifo", "link", "endless", "folder", "sparse")
"""What may have the name of a file."""


@pytest.fixture
def task(store: RunStore) -> ClientTask:
    """A fit of `kitchen` in round 1, whose folder is there."""
    made = store.task("train", 1, "kitchen", commit(store, 0))
    made.folder.mkdir(parents=True)
    return made


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A file that is none of a client's, and must stay as it is."""
    path = tmp_path / "outside"
    path.write_text("mine\n")
    yield path
    assert path.read_text() == "mine\n"


def put(path: Path, kind: str, outside: Path) -> None:
    """Let something odd have a file's name."""
    untrusted.remove(path)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        (path / "inside").mkdir(parents=True)
    elif kind == "sparse":
        path.touch()
        os.truncate(path, HUGE)
    else:
        path.symlink_to(outside if kind == "link" else "/dev/zero")


def finish(task: ClientTask) -> None:
    write_result(task, tensors=weights(1), num_examples=5, metrics={"loss": 0.5}, duration_s=1.0, peak_rss_bytes=1)


@pytest.mark.parametrize("kind", ODD)
def test_nothing_odd_is_waited_for_or_read(
    task: ClientTask, store: RunStore, outside: Path, told: list[str], kind: str
) -> None:
    names = ("train.json", "train.failed.json", "client.log", "memory.jsonl", "progress.json", "evaluate.safetensors")
    tail = LogTail(client_log(task), task.client)
    for name in (*names, ATTEMPTS_FILE):
        put(task.folder / name, kind, outside)
    assert find_finished(task) is None
    assert read_failure(task) is None
    tail.forward()
    LogTail(client_log(task), task.client).forward()
    assert last_line(client_log(task)) in ("no output", "?" * 500)
    assert read_samples(task.folder) == []
    assert failed_causes(task.folder, "train") == []
    assert read_progress(store.folder).clients[0].step is None
    rounds = [{"server_round": 1, "evaluate": {"kitchen": {"joints": ["elbow"]}}}]
    assert draw_joint_charts(store.folder, rounds, ["kitchen"]) == {}
    with pytest.raises(ClientError) as caught:
        outcome(task, state(1), 9)
    assert caught.value.cause == "error"
    assert "mine" not in "".join(told)


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("of", ["update", "optimizer"])
def test_tensors_that_are_no_plain_file_are_no_result(
    task: ClientTask, outside: Path, told: list[str], kind: str, of: str
) -> None:
    write_result(
        task,
        tensors=weights(1),
        optimizer=weights(2),
        num_examples=5,
        metrics={},
        duration_s=1.0,
        peak_rss_bytes=1,
    )
    path = task.folder / f"{of}.safetensors"
    kept = path.rename(task.folder / "kept")
    put(path, kind, kept if kind == "link" else outside)
    assert find_finished(task) is None
    assert any("is damaged and will be done again" in line and path.name in line for line in told)
    untrusted.remove(path)
    kept.rename(path)
    assert find_finished(task) is not None


CLAIMS: dict[str, dict[str, Any]] = {
    "kind": {"kind": "evaluate"},
    "round": {"server_round": 0},
    "client": {"client": "workshop"},
    "above": {"client": "../../../.."},
    "examples": {"num_examples": -1},
    "countless": {"num_examples": 10**400},
    "another's": {"tensors": {"path": "rounds/0001/clients/workshop/update.safetensors"}},
    "global": {"tensors": {"path": "rounds/0000/global.safetensors"}},
    "dots": {"tensors": {"path": "rounds/0001/clients/kitchen/../workshop/update.safetensors"}},
    "absolute": {"tensors": {"path": "/etc/passwd"}},
    "sub-folder": {"tensors": {"path": "rounds/0001/clients/kitchen/checkpoint/update.safetensors"}},
    "large": {"tensors": {"size": 17 * ROOM_BYTES}},
    "size": {"tensors": {"size": 1}},
    "endless name": {"tensors": {"path": "x" * 100_000}},
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_result_that_is_not_of_this_work_is_none(
    task: ClientTask, store: RunStore, told: list[str], claim: str
) -> None:
    fit(store, 1, "workshop", None)
    finish(task)
    path = task.folder / "train.json"
    record = atomic.read_sealed(path)
    (task.folder / "checkpoint").mkdir()
    (task.folder / "checkpoint" / "update.safetensors").write_bytes((task.folder / "update.safetensors").read_bytes())
    for key, value in CLAIMS[claim].items():
        record[key] = record[key] | value if isinstance(value, dict) else value
    atomic.write_sealed(path, record)
    with pytest.raises(ClientError) as caught:
        outcome(task, state(0), 9)
    assert len(str(caught.value)) < 5000
    if claim == "size":  # as a torn write leaves it
        assert caught.value.cause == "error"
        assert any("Finished train of kitchen is damaged" in line and len(line) < 5000 for line in told)
        return
    assert caught.value.cause == "bad_data"
    assert "train of 'kitchen', round 1: its record says " in str(caught.value)


def test_records_that_no_parser_survives_are_none(task: ClientTask) -> None:
    for name in ("train.json", "train.failed.json", "memory.jsonl", "progress.json", ATTEMPTS_FILE):
        (task.folder / name).write_text("[" * 200_000)
    assert find_finished(task) is None
    assert read_failure(task) is None
    assert read_samples(task.folder) == []
    assert failed_causes(task.folder, "train") == []
    assert read_progress(task.run_dir).clients[0].step is None


def test_figures_that_cannot_be_reckoned_with_are_none(task: ClientTask) -> None:
    record = {"kind": "train", "step": 10**400, "steps": 1, "loss": 10**400}
    (task.folder / "progress.json").write_text(json.dumps(record))
    assert status_json(task.run_dir)["clients"][0]["step"] is None
    good = {"at": 1.0, "pid": 7, "peak_gib": 2.0, "cgroup": "/nowhere\0", "oom_kills": 0}
    lines = [{**good, "peak_gib": "much"}, {**good, "at": 10**400}, good]
    (task.folder / "memory.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_samples(task.folder) == [good]
    assert last_words(task.folder).startswith("used 2.0 GiB")
    assert killed_for_memory(task.folder) is False


def test_a_cgroup_that_is_a_clients_own_folder_is_not_waited_for(task: ClientTask) -> None:
    os.mkfifo(task.folder / "memory.events")
    (task.folder / "memory.jsonl").write_text(json.dumps({"cgroup": str(task.folder), "oom_kills": 0}) + "\n")
    assert killed_for_memory(task.folder) in (True, False), "it came back"


def test_of_a_long_file_the_end_is_read(task: ClientTask) -> None:
    for name, most in (("memory.jsonl", 2 * MAX_BYTES), (ATTEMPTS_FILE, READ_BYTES)):
        line = json.dumps({"kind": "train", "cause": "lost", "at": 1.0}) + "\n"
        (task.folder / name).write_text(line * (2 * most // len(line)))
    assert 0 < len(read_samples(task.folder)) <= 2 * MAX_BYTES // 40
    assert 0 < len(failed_causes(task.folder, "train")) <= READ_BYTES // 40


# -- what is written there


@pytest.mark.parametrize("kind", ["fifo", "link", "dangling", "folder"])
def test_what_is_written_there_goes_through_no_link(task: ClientTask, outside: Path, tmp_path: Path, kind: str) -> None:
    for path in (client_log(task), task.folder / ATTEMPTS_FILE, lock_path(task)):
        if kind == "dangling":
            path.symlink_to(tmp_path / "made")
        else:
            put(path, kind, outside)
    keep_words(client_log(task), b"a container's own words\n" * MOST_WORDS_BYTES)
    note_failure(task, ClientError("lost", "x"))
    assert is_held(task) is False
    with worker_lock(task) as mine:
        assert mine
        assert is_held(task)
    assert not (tmp_path / "made").exists()
    assert client_log(task).read_text().endswith("own words\n")
    assert client_log(task).stat().st_size == MOST_WORDS_BYTES
    assert failed_causes(task.folder, "train") == ["lost"]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_worker_process_does_not_stumble_over_what_a_container_left(task: ClientTask, outside: Path) -> None:
    """Where the executor is changed: without a sandbox, it must not follow what one without rights has laid out."""
    names = ["client.log", "memory.jsonl", "progress.tmp", "train.failed.json", "checkpoint"]
    for name, kind in zip(names, ["link", "link", "link", "folder", "link"], strict=True):
        put(task.folder / name, kind, outside.parent if name == "checkpoint" else outside)
    code = f"from zk0.executors.worker import work; work({task.model_dump_json()!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=100)
    assert done.returncode == FAILURE_EXIT_CODE, (client_log(task).read_text(), done.stderr)
    assert not client_log(task).is_symlink()
    assert outside.parent.joinpath("outputs").is_dir()


def test_a_checkpoint_by_a_link_is_none(task: ClientTask, tmp_path: Path) -> None:
    from zk0.learning.checkpoint import FitCheckpoint

    dear = tmp_path / "dear" / "file"
    dear.parent.mkdir()
    dear.touch()
    checkpoint = FitCheckpoint(task, 1)
    checkpoint.folder.symlink_to(dear.parent)
    with pytest.raises(StorageError, match="swept"):
        checkpoint._sweep()
    checkpoint.remove()
    assert not checkpoint.folder.is_symlink()
    assert dear.exists()


def test_what_root_hands_over_is_not_behind_links(task: ClientTask, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "file").touch()
    (task.folder / "there").symlink_to(mine)
    before = [path.stat().st_uid for path in (mine, mine / "file")]
    deep(task.folder / "deep", 2100)  # more than a path can name
    hand_over([bind_mount(Bind(str(task.folder), str(task.folder), writable=True))])
    assert [path.stat().st_uid for path in (mine, mine / "file")] == before
    untrusted.remove_tree(task.folder / "deep")
    assert not (task.folder / "deep").exists()


# -- what a container says of its end


@pytest.mark.parametrize("note", [True, False])
def test_that_the_disk_is_full_is_not_believed_of_a_container_alone(task: ClientTask, note: bool) -> None:
    if note:
        leave_failure(task, StorageError("no space left, end it all"))
    with pytest.raises(ClientError, match="only this work has failed") as caught:
        outcome(task, state(FAILURE_EXIT_CODE if note else STORAGE_EXIT_CODE), 9)
    assert caught.value.cause == "error"
    assert sorted(path.name for path in task.folder.parent.iterdir()) == ["kitchen"], "the probe is removed"


def test_that_the_disk_is_full_is_believed_where_it_is(
    small_config: Callable[..., RunConfig], make_disk: Callable[[str], Path]
) -> None:
    disk = make_disk("64k")
    task = RunStore.create_or_open(small_config(outputs_dir=str(disk)), "run").task("train", 1, "kitchen")
    task.folder.mkdir(parents=True)
    leave_failure(task, StorageError("no space left"))
    fill(disk)
    with pytest.raises(StorageError, match="No space left"):
        outcome(task, state(FAILURE_EXIT_CODE), 9)


@pytest.mark.parametrize("record", [{"cause": "boredom", "message": "x\ny"}, {}, {"cause": ["error"], "message": 1}])
def test_a_cause_that_nobody_knows_is_an_error(task: ClientTask, record: dict[str, Any]) -> None:
    atomic.write_sealed(failure_path(task), record)
    failure = read_failure(task)
    assert isinstance(failure, ClientError)
    assert failure.cause == "error"
    assert "\n" not in str(failure)


def test_a_clients_words_are_short_and_steer_no_terminal(task: ClientTask) -> None:
    atomic.write_sealed(failure_path(task), {"cause": "error", "message": "\x1b[2J\ud800" + "x" * 10**6})
    text = str(read_failure(task))
    assert text.isprintable()
    assert len(text) < untrusted.LONGEST_WORDS + 100


def test_of_a_flood_of_lines_the_last_are_told(task: ClientTask, told: list[str]) -> None:
    tail = LogTail(client_log(task), "kitchen")
    with client_log(task).open("wb") as log:
        log.write(b"line\n" * MOST_BYTES)
        os.ftruncate(log.fileno(), HUGE)
        log.seek(HUGE)
        log.write(b"\nlast\n")
    tail.forward()
    assert told[-1] == "kitchen: last"
    assert len(told) < 5
    tail.forward()
    assert told[-1] == "kitchen: last"
    with client_log(task).open("ab") as log:
        log.write(b"x" * 3 * MOST_BYTES)
    for _ in range(3):
        tail.forward()
    assert len(tail._rest) <= MOST_BYTES


def test_a_process_that_a_lock_names_and_that_does_not_hold_it_is_left_alone(task: ClientTask) -> None:
    """It would be adopted, and killed at the time limit."""
    with subprocess.Popen(["sleep", "60"]) as bystander, lock_path(task).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            lock.write(str(bystander.pid))
            lock.flush()
            assert is_held(task)
            assert live_worker(task) is None
            lock_path(task).write_text(str(os.getpid()))
            holder = live_worker(task)
            assert holder is not None
            assert holder.pid == os.getpid()
        finally:
            bystander.kill()


# -- aggregation and commit


def test_an_update_that_is_no_safetensors_file_is_the_clients_fault(task: ClientTask, store: RunStore) -> None:
    finish(task)
    path = task.folder / "update.safetensors"
    digest = atomic.write_bytes(path, b"anything but tensors")
    record = atomic.read_sealed(task.folder / "train.json")
    record["tensors"] |= {"sha256": digest.sha256, "size": digest.size}
    atomic.write_sealed(task.folder / "train.json", record)
    result = find_finished(task)
    assert result is not None, "it is what the client wrote"
    with pytest.raises(ClientError, match="cannot be read") as caught:
        check_update(result, store.folder, store.round_folder(0) / "global.safetensors")
    assert caught.value.cause == "bad_data"


@pytest.mark.parametrize("kind", ["fifo", "link", "folder"])
def test_a_named_file_is_opened_as_a_plain_one_by_name_too(task: ClientTask, outside: Path, kind: str) -> None:
    put(task.folder / "x.safetensors", kind, outside)
    for read in (atomic.read_tensors, atomic.file_digest, atomic.read_json, atomic.read_sealed):
        with pytest.raises(StorageError, match="is no plain file"):
            read(task.folder / "x.safetensors")


def deep(folder: Path, levels: int = 1200) -> None:
    """A folder in a folder, and so on: deeper than Python calls itself."""
    folder.mkdir()
    where = os.open(folder, os.O_DIRECTORY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=where)
        inner = os.open("d", os.O_DIRECTORY, dir_fd=where)
        os.close(where)
        where = inner
    os.close(where)


def test_nothing_that_a_client_leaves_holds_up_commits(task: ClientTask, store: RunStore, outside: Path) -> None:
    result = fit(store, 1, "kitchen", store.state(0))
    lost = task.folder.with_name("workshop")
    dear = outside.parent / "dear"
    (dear / "inside").mkdir(parents=True)
    (dear / ".x.tmp").touch()
    for folder in (task.folder, lost):
        (folder / ".x.tmp" / "inside").mkdir(parents=True)
        (folder / ".trash-1").symlink_to(dear)
        (folder / ".trash-2").touch()
        (folder / "away").symlink_to(dear)
    deep(task.folder / "deep")
    (task.folder / "checkpoint").symlink_to(dear)
    deep(lost / "checkpoint")
    (task.folder / ".update.safetensors.7.tmp").touch()
    commit(store, 1, [result])
    assert not (task.folder / ".update.safetensors.7.tmp").exists()
    assert not (task.folder / "checkpoint").is_symlink()
    assert not (lost / "checkpoint").exists()
    commit(store, 2)
    commit(store, 3)
    store.prune(2)
    assert store.committed_rounds() == [0, 2, 3]
    assert (dear / "inside").is_dir()
    assert (dear / ".x.tmp").exists()


CLOSED = """
import os, sys
from pathlib import Path
from zk0.executors.docker.executor import _reopen, keep_words
from zk0.files import untrusted
folder = Path(sys.argv[1])
if os.geteuid() == 0:  # whom no closed folder stops
    os.chown(folder, 65534, 65534)
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
os.chdir("/")
(folder / "a" / "b" / "c").mkdir(parents=True)
(folder / "a" / "b").chmod(0)
untrusted.remove_tree(folder / "a")
(folder / "client").mkdir()
(folder / "client").chmod(0)
_reopen(folder / "client")
keep_words(folder / "client" / "client.log", b"words")
print(sorted(path.name for path in folder.rglob("*")))
"""


def test_folders_that_a_client_closed_are_opened_and_removed(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:  # whose parents are open to everybody, as tmp_path's are not
        command = [sys.executable, "-c", CLOSED, folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "['client', 'client.log']\n", done.stderr


def test_a_disk_that_was_full_and_is_nearly_so_ends_the_run(
    small_config: Callable[..., RunConfig], make_disk: Callable[[str], Path]
) -> None:
    """The worker made room when it gave up: its word is true though a byte can be written."""
    disk = make_disk("8m")
    store = RunStore.create_or_open(small_config(outputs_dir=str(disk)), "run")
    made = store.task("train", 1, "kitchen", commit(store, 0))
    made.folder.mkdir(parents=True)
    leave_failure(made, StorageError("update.safetensors: No space left on device"))
    with pytest.raises(ClientError, match="only this work has failed"):
        outcome(made, state(3), 9)
    fill(disk, but=2**19)
    with pytest.raises(StorageError, match="free some space"):
        outcome(made, state(3), 9)
    assert list(made.folder.parent.glob(".*")) == []


@pytest.mark.parametrize(
    "odd",
    [
        {"action_error_deg": "1.5"},
        {"loss": None},
        {"evaluation": "other"},
        {"quick": 7},
        {"joints": {"elbow": 1.0}},
        {"episodes": {"steps": [3, 4], "action_error_deg": [1.0], "gripper_error": None}},
        {"episodes": {"steps": [0], "action_error_deg": [1.0], "gripper_error": None}},
        {"interval_95": {"action_error_deg": [1.0]}},
        {"peak_ram_bytes": [1]},
        {"peak_ram_bytes": 10**400},
    ],
)
def test_figures_of_another_kind_are_no_result(store: RunStore, odd: dict[str, Any]) -> None:
    made = store.task("evaluate", 1, "kitchen", commit(store, 0))
    known = {"action_error_deg": [1.0], "gripper_error": None, "steps": [3]}
    whole: dict[str, Any] = {"action_error_deg": 1.0, "gripper_error": None, "loss": 0.5, "joint_error": {"elbow": 1.0}}
    whole |= {"joints": ["elbow"], "episodes": known, "evaluation": "full", "peak_ram_bytes": 7}
    whole |= {"interval_95": {"action_error_deg": None, "joint_error": {"elbow": [0.5, 2]}}}
    rest: dict[str, Any] = {"tensors": None, "num_examples": 3, "duration_s": 1.0, "peak_rss_bytes": 1}
    write_result(made, metrics=whole, **rest)
    assert find_finished(made) is not None
    write_result(made, metrics=whole | odd, **rest)
    with pytest.raises(ClientError, match=next(iter(odd))) as caught:
        find_finished(made)
    assert caught.value.cause == "bad_data"


def test_joints_of_an_odd_shape_are_not_drawn(task: ClientTask, store: RunStore) -> None:
    rounds = [{"server_round": 1, "evaluate": {"kitchen": {"joints": ["elbow", "wrist"]}}}]
    whole = np.zeros((4, 2), np.float32)
    odd: list[dict[str, Any]] = [{"recorded": whole}, {"recorded": whole[0], "predicted": whole[0]}]
    odd.append({"recorded": whole[:, :1], "predicted": whole[:, :1]})
    for tensors in odd:
        atomic.write_tensors(task.folder / "evaluate.safetensors", tensors)
        assert draw_joint_charts(store.folder, rounds, ["kitchen"]) == {}
    atomic.write_tensors(task.folder / "evaluate.safetensors", {"recorded": whole, "predicted": whole})
    assert list(draw_joint_charts(store.folder, rounds, ["kitchen"])) == ["joints-kitchen"]


def test_a_file_is_not_read_beyond_what_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    path.touch()
    os.truncate(path, HUGE)
    with pytest.raises(StorageError, match="has not the 5 bytes that are recorded"):
        atomic.verify(path, ArtifactRef(path="x", sha256="0", size=5).sha256, 5)
