"""Runs over a link of every kind that a run at home has: the same bytes."""

import hashlib
import json
import re
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tomli_w

import zk0
from benchmarks.links import ZK0, Place, place, until
from benchmarks.service import CLIENTS, CommandLine, small_run
from zk0.executors import link_check
from zk0.executors.living import lock_holder
from zk0.executors.process import ProcessExecutor
from zk0.federation.comparison import compare
from zk0.runs.store import RunStore

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]  # minutes; tests/integration/test_federation.py has one run
SMALL = {"evaluation__frame_stride": 96, "training__steps": 4}
RULES = "joint_charts = true\nfull_fine_tuning = true\noptimizer_state = true"
ACT: dict[str, Any] = {"chunk_size": 8, "n_action_steps": 4, "dim_model": 32, "n_heads": 2, "dim_feedforward": 32}
ACT |= {"n_encoder_layers": 1, "n_decoder_layers": 1, "pretrained_backbone_weights": "null"}
SCRATCH = {
    "policy": {"type": "act", "device": "cpu", "overrides": ACT},
    "peft__enabled": False,
    "data__normalization": "federated",
}
KINDS: dict[str, dict[str, Any]] = {
    "kept-optimizer": {"training__optimizer_state": "keep"},
    "federated-normalization": {"data__normalization": "federated"},
    "from-scratch": SCRATCH,
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory.mktemp("federation")) as found:
        for name in (*CLIENTS, "study"):
            path = found.node(name) / "node.toml"
            text = path.read_text().replace("datasets/kitchen", f"datasets/{name}").partition("[rules]")[0]
            path.write_text(f'{text}device = "cpu"\n[rules]\n{RULES}\n')
            if name in CLIENTS:
                found.start_node(name)
        for name in CLIENTS:
            until(partial(joined, found, name), 300)
        yield found


def joined(place_: Place, name: str) -> bool:
    return "SuperNode ID" in place_.log(name)


def over_link(here: Place, config: dict[str, Any]) -> dict[str, Any]:
    config["executor"] |= {"kind": "superlink", "link": str(here.link)}
    for client in config["clients"]:
        del client["root"]
    return config


def digest(outputs: Path, name: str, server_round: int = 2) -> str:
    path = outputs / name / f"rounds/{server_round:04d}/global.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_are_those_of_the_run_at_home(here, tmp_path, kind):
    zk0.run(small_run(tmp_path, **SMALL, **KINDS[kind]), name=kind)
    zk0.run(over_link(here, small_run(here.folder / "outputs", **SMALL, **KINDS[kind])), name=kind)
    assert digest(here.folder / "outputs", kind) == digest(tmp_path, kind)


def test_a_comparison_over_a_link_is_the_one_at_home_without_the_pooled_arm(here, tmp_path):
    outputs = here.folder / "outputs"
    found = {}
    for where, config in (
        (tmp_path, small_run(tmp_path, **SMALL)),
        (outputs, over_link(here, small_run(outputs, **SMALL))),
    ):
        zk0.run(config, name="compared")
        store = RunStore.open(where, "compared")
        found[where] = compare(store, ProcessExecutor(store.config.executor))
    there = {arm.name: arm.errors for arm in found[outputs].arms}
    at_home = {arm.name: arm.errors for arm in found[tmp_path].arms}
    assert at_home.pop("pooled")
    assert there == at_home


def test_prefects_run_goes_over_a_link_and_ctrl_c_ends_the_fits_on_the_nodes(here, tmp_path):
    config = over_link(here, small_run(here.folder / "outputs", **{**SMALL, "training__steps": 300}))
    (tmp_path / "run.toml").write_text(tomli_w.dumps(config))
    environment = CommandLine.apart(tmp_path)
    command = [ZK0, "run", str(tmp_path / "run.toml"), "--name", "served"]
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
    until(lambda: process.poll() is not None or len(fits(here)) == 2, 400)
    assert process.poll() is None, (tmp_path / "out").read_text()
    process.send_signal(signal.SIGINT)
    assert process.wait(90) == 130, (tmp_path / "out").read_text()
    until(lambda: not fits(here), 60)
    status = [ZK0, "status", "served", "--outputs", str(here.folder / "outputs"), "--json"]
    assert subprocess.run(status, env=environment, capture_output=True, text=True, check=True).stdout
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    home = small_run(tmp_path / "outputs", **{**SMALL, "training__steps": 300})
    zk0.run(home, name="served")
    assert digest(here.folder / "outputs", "served") == digest(tmp_path / "outputs", "served")


def fits(here: Place) -> list[Path]:
    """The locks of fits under way."""
    return [
        path
        for path in here.folder.glob("*/work/runs/*/rounds/0001/clients/*/train.lock")
        if lock_holder(path) is not None
    ]


def test_a_node_that_is_away_at_the_start_joins_later_and_one_that_is_too_many_is_waited_for(here, monkeypatch):
    monkeypatch.setattr(link_check, "JOIN_S", 8.0)
    config = over_link(here, small_run(here.folder / "outputs", **SMALL, federation__num_rounds=3))
    config["clients"].append({"name": "study", "repo_id": "zk0/study"})
    config["executor"]["away_s"] = 15
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(zk0.run, config, name="late")
        first = here.folder / "outputs/late/rounds/0001/manifest.json"
        until(lambda: run.done() or first.exists(), 400)
        assert not run.done(), run.result()
        here.start_node("study")
        run.result(400)
    lines = [json.loads(line) for line in (here.folder / "outputs/late/metrics.jsonl").read_text().splitlines()]
    assert "study" not in lines[1]["train"]
    assert any(item["client"] == "study" and item["cause"] == "lost" for item in lines[1]["failures"])
    assert "study" in lines[3]["train"]
    assert re.search(r"'study'.* joins the run", (here.folder / "outputs/late/run.log").read_text())
