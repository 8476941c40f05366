"""A run whose clients are on nodes, over TLS, keys and the gate: the bytes of one at home, whatever is killed."""

import hashlib
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

import zk0
from benchmarks.links import Place, place, until
from benchmarks.service import CLIENTS, small_run
from zk0.config import load_config
from zk0.errors import ConfigError, Zk0Error
from zk0.executors.choice import stop_work
from zk0.executors.living import lock_holder
from zk0.files import atomic
from zk0.layout import COURIER_FOLDER
from zk0.link.mailbox import Mailbox

pytestmark = pytest.mark.slow
ASKED = {
    "federation__num_rounds": 1,
    "training__steps": 12,
    "checkpoint__every_steps": 2,
    "evaluation__frame_stride": 48,
}


def joined(place_: Place, name: str) -> bool:
    return "SuperNode ID" in place_.log(name)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory.mktemp("federation")) as found:
        for name in CLIENTS:
            path = found.node(name) / "node.toml"
            text = path.read_text().replace("datasets/kitchen", f"datasets/{name}")
            path.write_text(text.replace("[rules]", 'device = "cpu"\n[rules]', 1))
            found.start_node(name)
        for name in CLIENTS:
            until(partial(joined, found, name), 180)
        yield found


def config(here: Place, **changes: Any) -> dict[str, Any]:
    """The small run's, over the link: whose clients' folders the coordinator does not know."""
    found = small_run(here.folder / "outputs", **{**ASKED, **changes})
    found["executor"] |= {"kind": "superlink", "link": str(here.link)}
    for client in found["clients"]:
        del client["root"]
    return found


def digest(outputs: Path, name: str) -> str:
    return hashlib.sha256((outputs / name / "rounds/0001/global.safetensors").read_bytes()).hexdigest()


def ledger(here: Place, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (here.folder / name / "ledger.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def at_home(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the same run by processes."""
    outputs = tmp_path_factory.mktemp("home")
    zk0.run(small_run(outputs, **ASKED), name="home")
    return digest(outputs, "home")


def fits(here: Place) -> list[Path]:
    """The folders of both nodes' fits that are under way, and have a checkpoint."""
    folders = [
        path for name in CLIENTS for path in (here.folder / name).glob(f"work/runs/*/rounds/0001/clients/{name}")
    ]
    return [path for path in folders if (path / "checkpoint/manifest.json").exists() and lives(path)]


def lives(fit: Path) -> bool:
    return lock_holder(fit / "train.lock") is not None


def test_a_run_over_nodes_has_the_bytes_of_one_at_home_though_courier_and_worker_are_killed(here, at_home):
    box = Mailbox(here.folder / "outputs/far" / COURIER_FOLDER)
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(zk0.run, config(here), name="far")
        until(lambda: run.done() or fits(here), 300)
        os.kill(box.status().pid, signal.SIGKILL)
        psutil.Process(here.part("kitchen", "worker")).kill()
        run.result(500)
    assert digest(here.folder / "outputs", "far") == at_home
    assert (here.folder / "outputs/far/final/adapter_model.safetensors").is_file()
    for name in CLIENTS:
        (log,) = (here.folder / name).glob(f"work/runs/*/rounds/0001/clients/{name}/client.log")
        assert log.read_text().count("train starts") == 1  # the fit lived on, and was adopted
        lines = ledger(here, name)
        assert [line["event"] for line in lines].count("began") == 1
        (sent,) = {line["sha256"] for line in lines if line.get("what") == "update.safetensors"}
        assert sent == atomic.file_digest(box.run_dir / f"rounds/0001/clients/{name}/update.safetensors").sha256


def test_what_a_person_ends_ends_on_the_nodes_and_its_checkpoint_stays(here):
    wanted = config(here, training__steps=20_000)
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(zk0.run, wanted, name="ended")
        until(lambda: run.done() or len(fits(here)) == len(CLIENTS), 300)
        found = fits(here)
        stop_work(str(here.folder / "outputs/ended"), load_config(wanted))  # as Ctrl-C, cancel and suspend do
        assert isinstance(run.exception(60), Zk0Error)
    until(lambda: not any(map(lives, found)), 60)
    assert all((fit / "checkpoint/manifest.json").exists() for fit in found)
    assert not list(Mailbox(here.folder / "outputs/ended" / COURIER_FOLDER).endings())


def test_what_an_owner_does_not_allow_is_said_before_the_run(here):
    with pytest.raises(ConfigError, match=r"client 'kitchen', on its node: .*rules\.full_fine_tuning = false"):
        zk0.run(config(here, peft={"enabled": False}), name="too-much")
    assert not (here.folder / "outputs/too-much").exists()


def test_a_client_that_nobody_registered_is_named(here):
    wanted = config(here)
    wanted["clients"][1]["name"] = "attic"
    with pytest.raises(ConfigError, match="client 'attic': no node of that name is registered"):
        zk0.run(wanted, name="unknown")
