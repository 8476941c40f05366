"""What owners and the link turn away, end to end; and that the ledger is what goes over the wire."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tomli_w

import zk0
from benchmarks.links import ZK0, Place, place, until
from benchmarks.service import CommandLine, small_run
from tests.wire import Wire
from zk0.errors import ConfigError, DatasetError

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]  # minutes; tests/unit/node/test_rules.py has each rule

RULES: dict[str, tuple[str, dict[str, Any]]] = {
    "full_fine_tuning = false": ("full_fine_tuning = false", {"peft": {"enabled": False}}),
    "full_modules = []": ("full_modules = []", {"peft__full_training_modules": ["action_out_proj"]}),
    "num_rounds = 1": ("num_rounds = 1", {}),
    "steps_per_fit = 1": ("steps_per_fit = 1", {}),
    "steps_per_day = 1": ("steps_per_day = 1", {}),
    "batch_size = 2": ("batch_size = 2", {}),
    "optimizer_state = false": ("optimizer_state = false", {"training__optimizer_state": "keep"}),
    "statistics = false": ("statistics = false", {"data__normalization": "federated"}),
    "joint_charts = false": ("joint_charts = false", {"report__joint_charts": True}),
    "episode_metrics = false": ("episode_metrics = false", {}),
    'policy_types = ["act"]': ("policy_types = ['act']", {}),
    'bases = ["lerobot/*"]': ("bases = ['lerobot/*']", {}),
    'config_digests = ["01234567"]': ("rules.config_digests has 01234567", {}),
    'runs = ["bench-*"]': ("runs = ['bench-*']", {}),
}
"""A rule of the owner's -> what the coordinator is told, and what the run asks for."""


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with Wire() as found:
        yield found


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, wire: Wire) -> Iterator[Place]:
    with place(tmp_path_factory.mktemp("federation")) as found:
        wire.listen(found.link, found.port)
        found.node("kitchen", link=f"127.0.0.1:{wire.port}")
        found.start_node("kitchen")
        until(partial(joined, found, "kitchen"), 300)
        yield found


def joined(place_: Place, name: str) -> bool:
    return "SuperNode ID" in place_.log(name)


def config(here: Place, clients: tuple[str, ...] = ("kitchen",), **changes: Any) -> dict[str, Any]:
    found = small_run(here.folder / "outputs", evaluation__frame_stride=96, **changes)
    found["executor"] |= {"kind": "superlink", "link": str(here.link)}
    found["clients"] = [{"name": name, "repo_id": f"lab/{name}"} for name in clients]
    found["federation"]["min_train_clients"] = 1
    return found


def set_rules(here: Place, rules: str, name: str = "kitchen") -> None:
    path = here.folder / name / "node.toml"
    head = path.read_text().partition("[rules]")[0]
    path.write_text(f"{head}[rules]\n{rules}\n")


def ledger(here: Place, name: str = "kitchen") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (here.folder / name / "ledger.jsonl").read_text().splitlines()]


def test_the_ledger_is_what_goes_over_the_wire(here, wire):
    """The first of this file: what goes over the wire is then of this run alone."""
    set_rules(here, "")
    zk0.run(config(here), name="counted")

    def left() -> list[dict[str, Any]]:
        return [line for line in ledger(here) if line["event"] == "left"]

    def answers() -> int:
        return sum(line["what"].startswith("answer: ") for line in left())

    with suppress(AssertionError):
        until(lambda: wire.pushed().messages == answers(), 60)  # an answer is in the ledger before it is on the wire
    assert wire.pushed().messages == answers(), (wire.calls, left())
    told = sum(line["bytes"] for line in left())
    assert told <= wire.pushed().body_bytes <= 1.02 * told + 8192 * answers()
    assert {"update.safetensors"} < {line["what"] for line in left()}


@pytest.mark.parametrize("rule", RULES)
def test_a_run_that_asks_for_too_much_is_refused_before_it_starts(here, rule):
    told, changes = RULES[rule]
    set_rules(here, rule)
    before = len(ledger(here)) if (here.folder / "kitchen/ledger.jsonl").exists() else 0
    with pytest.raises(ConfigError) as caught:
        zk0.run(config(here, **changes), name="too-much")
    assert re.search(rf"client 'kitchen', on its node: .*{re.escape(told)}", str(caught.value)), caught.value
    assert not (here.folder / "outputs/too-much").exists()
    assert "refused" in [line["event"] for line in ledger(here)[before:]]
    assert told in here.log("kitchen")
    until(lambda: told in here.log("link"), 10)


def test_the_coordinators_terminal_shows_it(here, tmp_path):
    set_rules(here, "num_rounds = 1\nbatch_size = 2")
    (tmp_path / "run.toml").write_text(tomli_w.dumps(config(here)))
    environment = CommandLine.apart(tmp_path)
    command = [ZK0, "run", str(tmp_path / "run.toml"), "--name", "shown"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 2, said
    assert "rules.num_rounds = 1" in said
    assert "rules.batch_size = 2" in said
    assert not (here.folder / "outputs/shown").exists()


def test_a_node_that_calls_itself_another_is_turned_away_in_both_logs(here):
    here.node("pantry")
    path = here.folder / "pantry" / "node.toml"
    path.write_text(path.read_text().replace('client = "pantry"', 'client = "kitchen"'))
    here.start_node("pantry")
    until(partial(joined, here, "pantry"), 300)
    told = "the node that is registered as 'pantry' calls itself 'kitchen'"
    with pytest.raises(DatasetError, match=told):
        zk0.run(config(here, ("pantry",)), name="copied")
    assert told in here.log("pantry")
    until(lambda: told in here.log("link"), 10)
    here.end("pantry")


def test_a_node_of_another_version_is_turned_away_in_both_logs(here, tmp_path, monkeypatch):
    folder = tmp_path / "zk0-0.0.1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: zk0\nVersion: 0.0.1\n")
    here.node("attic")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]))
    here.start_node("attic")
    until(partial(joined, here, "attic"), 300)
    monkeypatch.undo()
    told = f"the coordinator has zk0 {zk0.__version__} and the node 0.0.1; install the same on both"
    with pytest.raises(ConfigError, match=told):
        zk0.run(config(here, ("attic",)), name="older")
    assert told in here.log("attic")
    until(lambda: told in here.log("link"), 10)
    here.end("attic")


def test_who_is_registered_and_of_no_run_is_asked_for_nothing(here):
    assert sys.executable  # the nodes above: `pantry` and `attic` are registered, and were asked once each
    asked = [path for name in ("pantry", "attic") for path in (here.folder / name).glob("work/asks/*/request.json")]
    assert [json.loads(path.read_text())["what"] for path in asked] == ["describe", "describe"]
    assert Path(here.folder / "outputs/counted/final").exists()
