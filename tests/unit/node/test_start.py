"""A SuperNode that speaks to its link no more is seen, and what Flower says last is told in words."""

import os
import socket

import pytest

from zk0.node import start
from zk0.node.start import SUPERNODE, Silence, explain


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(start, "LOOK_S", 0.0)
    monkeypatch.setattr(start, "SILENT_S", -1.0)


def test_one_that_speaks_is_left_alone_and_a_silent_one_is_named(quick, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        look = Silence(os.getpid, port)
        assert look() == [SUPERNODE]  # no word yet, and no patience
        monkeypatch.setattr(start, "SILENT_S", 1.0)
        look._heard = -10.0
        with socket.create_connection(("127.0.0.1", port)):
            assert look() == []
        look._heard = -10.0
        assert look() == [SUPERNODE]


def test_a_new_process_has_all_its_time_again(quick, monkeypatch):
    monkeypatch.setattr(start, "SILENT_S", 1.0)
    pids = [os.getpid()]
    look = Silence(lambda: pids[0], 1)
    look()
    look._heard = -10.0
    pids[0] = os.getppid()
    assert look() == []
    pids[0] = None
    assert look() == []


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("[code: 2004] Failed to activate SuperNode.", "is there: it was until a minute ago, or the key is used twice"),
        ("zk0's gate: the key SHA256:x was revoked", "has revoked this key"),
        ("zk0's gate: the key SHA256:x is not registered: give key.pub", "has not registered this key"),
        ("zk0's gate: something new", "the gate turns it away (something new)"),
    ],
)
def test_what_flower_says_last_is_told_in_words(said, words):
    assert words in (explain(f"code: 2004\n2026 zk0: supernode started, process 1\n{said}\n") or "")
    assert explain("2026 zk0: supernode started, process 1\nall is well\n") is None
