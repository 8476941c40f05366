"""The local Prefect server that a command starts: whose it is, and what happens when it dies."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, PREFECT_SERVER_API_PORT, temporary_settings

from flows import patience, server
from flows.server import Server, answers, ensure_server

pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home and a port of Prefect that nobody has used."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr(server, "_local", {})
    settings = {PREFECT_HOME: tmp_path, PREFECT_SERVER_API_PORT: port, PREFECT_API_URL: None}
    with temporary_settings(settings):
        yield tmp_path


def until(met: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_it_is_one_for_all_and_comes_back(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ensure_server()
    second = ensure_server()  # while the first comes up
    started = first.started
    assert started is not None
    assert second.started is None
    url = first.wait()
    assert second.wait() == url

    guest = os.fork()  # of another command: each keeps a connection for its events
    if guest == 0:
        with socket.create_connection(("127.0.0.1", int(url.split(":")[2].split("/")[0]))):
            signal.pause()
    until(lambda: server._has_guests(started.pid))
    first.discard()  # the first command is refused
    os.kill(guest, signal.SIGKILL)
    os.waitpid(guest, 0)
    until(lambda: not server._has_guests(started.pid))
    assert answers(url)

    monkeypatch.setattr(patience, "RESTART_AFTER_S", 1.0)
    monkeypatch.setattr(server, "START_AGAIN_AFTER_S", 1.0)
    with patience.kept_up(url):
        started.kill()
        started.wait()
        until(lambda: not answers(url), 10)
        until(lambda: answers(url))
    again = server._local[url].process
    assert again is not None
    assert (home / "server.pid").read_text() == str(again.pid)

    again.kill()  # between a look at it and its use
    again.wait()
    assert second.wait() == url
    last = Server(url, server._local[url].process)
    last.discard()  # nobody else is there
    assert last.started is not None
    assert last.started.wait(30) is not None
