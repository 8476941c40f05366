"""Programs are kept running, and nothing of them is left."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import psutil
import pytest

from zk0.errors import BadInputError, LinkError
from zk0.services import keeper
from zk0.services.keeper import Keeper, Part, running
from zk0.services.left_over import MARK, end_left_over


def sleeper(*, children=0, session=False):
    code = "import subprocess, sys, time\n" + "".join(
        f"subprocess.Popen(['sleep', '300'], start_new_session={session})\n" for _ in range(children)
    )
    return [sys.executable, "-c", code + "print('up', flush=True)\ntime.sleep(300)"]


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


@contextmanager
def kept(folder, *parts, look=lambda: (), ended=lambda: None):
    said: list[str] = []
    one = Keeper(folder, folder / "log", parts, said.append)
    thread = threading.Thread(target=one.run, args=(look, ended))
    thread.start()
    try:
        yield said
    finally:
        one.stop()
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(keeper, "LOOK_S", 0.02)


def pid(folder, name):
    found = (running(folder) or {}).get("parts", {}).get(name, {})
    return found.get("pid")


def ours(folder):
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_what_dies_is_started_again_and_the_end_leaves_nothing(tmp_path):
    with kept(tmp_path, Part("one", lambda: sleeper(children=1, session=True), shortest_pause_s=0.05)) as said:
        first = until(lambda: pid(tmp_path, "one"))
        until(lambda: len(ours(tmp_path)) == 2)
        os.kill(first, signal.SIGKILL)
        second = until(lambda: pid(tmp_path, "one") not in (None, first) and pid(tmp_path, "one"))
        assert psutil.pid_exists(second)
    assert not ours(tmp_path)
    assert running(tmp_path) is None
    assert any("one was ended by SIGKILL" in line for line in said)
    assert (tmp_path / "log").read_text().splitlines()[0] == said[0]


def test_what_a_killed_keeper_left_is_ended_by_the_next(tmp_path):
    code = f"""
import sys
from pathlib import Path
from zk0.services.keeper import Keeper, Part
folder = Path({str(tmp_path)!r})
sleep = [sys.executable, "-c", "import subprocess, time; subprocess.Popen(['sleep', '300']); time.sleep(300)"]
parts = [Part("one", lambda: sleep), Part("spared", lambda: sleep, spares_children=True)]
Keeper(folder, folder / "log", parts, print).run()
"""
    keeping = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    spared = until(lambda: pid(tmp_path, "spared"))
    child = until(lambda: psutil.Process(spared).children())[0]
    until(lambda: len(ours(tmp_path)) == 2)
    keeping.kill()
    keeping.wait()
    assert len(ours(tmp_path)) == 2
    found = end_left_over(tmp_path)
    assert len(found) == 3, found  # two of the first, and the other without its child
    until(lambda: not ours(tmp_path))
    assert child.is_running()  # what the second started lives on
    child.kill()


def test_what_outlives_its_program_ends_with_the_keeper(tmp_path):
    """As a fit outlives the node's worker, and must not outlive its owner's wish to stop."""
    spared = Part("spared", lambda: sleeper(children=1, session=True), spares_children=True, shortest_pause_s=0.05)
    told = threading.Event()
    with kept(tmp_path, spared, ended=told.set):
        first = until(lambda: pid(tmp_path, "spared"))
        child = until(lambda: psutil.Process(first).children())[0]
        os.kill(first, signal.SIGKILL)
        until(lambda: pid(tmp_path, "spared") not in (None, first))
        assert child.is_running()
        assert not told.is_set()
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert told.is_set()


def test_pauses_grow_and_a_steady_program_starts_soon_again(tmp_path):
    with kept(tmp_path, Part("one", lambda: ["false"], shortest_pause_s=0.05)) as said:
        until(lambda: len([line for line in said if "ended with code 1" in line]) >= 4)
    state = keeper._State(Part("one", lambda: ["false"], shortest_pause_s=2.0))
    one = Keeper(tmp_path, tmp_path / "log", [], print)
    pauses = []
    for failures in range(1, 9):
        state.failures = failures
        one._pause(state, 0.0)
        pauses.append(state.not_before)
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60]
    away = keeper._State(Part("node", lambda: ["false"], shortest_pause_s=65.0), failures=3)
    one._pause(away, 0.0)
    assert away.not_before == 65


def test_what_cannot_start_now_is_said_once_and_tried_again(tmp_path):
    tries = []

    def command():
        tries.append(1)
        if len(tries) < 4:
            raise LinkError("the link does not answer")
        return sleeper()

    with kept(tmp_path, Part("one", command, shortest_pause_s=0.02)) as said:
        until(lambda: pid(tmp_path, "one"))
    assert len([line for line in said if "the link does not answer" in line]) == 1


def test_one_keeper_has_a_folder(tmp_path):
    with kept(tmp_path, Part("one", sleeper)):
        until(lambda: pid(tmp_path, "one"))
        with pytest.raises(BadInputError, match=f"started already, by process {os.getpid()}"):
            Keeper(tmp_path, tmp_path / "log", [], print).run()


def test_a_program_is_started_anew_when_it_is_asked_for(tmp_path):
    wanted: list[str] = []
    with kept(tmp_path, Part("one", sleeper), look=lambda: [wanted.pop()] if wanted else []):
        first = until(lambda: pid(tmp_path, "one"))
        wanted.append("one")
        until(lambda: pid(tmp_path, "one") not in (None, first))


def test_a_long_log_is_put_aside_and_who_writes_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(keeper, "MOST_LOG_BYTES", 1000)
    log = tmp_path / "log"
    with log.open("ab", buffering=0) as file:
        file.write(b"x" * 1001)
        keeper.trim(log)
        file.write(b"y")
    assert log.read_bytes() == b"y"
    assert (tmp_path / "log.1").stat().st_size == 1001
