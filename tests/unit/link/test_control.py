"""Flower's commands for a link: one that is coming is waited for, one that does not answer is named."""

import stat
from pathlib import Path

import pytest

from zk0.errors import BadInputError, LinkError
from zk0.link import control, keys
from zk0.services.keeper import only_one

AWAY = '{"success": false, "error-message": "Connection to the SuperLink is unavailable."}'
HERE = '{"success": true, "nodes": []}'
LIST = ("supernode", "list")


@pytest.fixture
def link(tmp_path: Path) -> Path:
    folder = tmp_path / "link"
    keys.make_keys(folder, ["127.0.0.1"], None)
    return folder


def says(monkeypatch: pytest.MonkeyPatch, folder: Path, *answers: str) -> Path:
    """Put a command in the place of `flwr` that says one after the other; gives the file that counts its calls."""
    calls, command = folder / "calls", folder / "flwr"
    for number, answer in enumerate(answers, start=1):
        (folder / f"answer-{number}").write_text(answer)
    command.write_text(f"#!/bin/sh\necho >> {calls}\ncat {folder}/answer-$(wc -l < {calls})\n")
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(control, "program", lambda _: str(command))
    monkeypatch.setattr(control, "LOOK_S", 0.0)
    return calls


def test_a_superlink_that_is_coming_is_waited_for(link, monkeypatch):
    calls = says(monkeypatch, link, AWAY, AWAY, HERE)
    with only_one(link):  # as `zk0 link start` does
        assert control.flwr(link, *LIST) == {"success": True, "nodes": []}
    assert calls.read_text().count("\n") == 3


def test_one_that_does_not_come_is_named_with_where_to_look(link, monkeypatch):
    says(monkeypatch, link, AWAY, AWAY)
    with only_one(link), pytest.raises(LinkError, match=r"the link is started, but its SuperLink .* see link\.log"):
        control.flwr(link, *LIST, coming_s=0)


def test_a_link_that_is_not_started_is_said_at_once(link, monkeypatch):
    calls = says(monkeypatch, link, AWAY, HERE)
    with pytest.raises(LinkError, match=r"the link does not run .* start it first"):
        control.flwr(link, *LIST)
    assert calls.read_text().count("\n") == 1


def test_a_refusal_is_not_tried_again(link, monkeypatch):
    calls = says(monkeypatch, link, '{"success": false, "error-message": "[code: 23] key taken"}', HERE)
    with only_one(link), pytest.raises(BadInputError, match=r"the SuperLink refuses `flwr supernode list`.*23"):
        control.flwr(link, *LIST)
    assert calls.read_text().count("\n") == 1
