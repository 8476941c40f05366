"""A node whose owner lets it work in containers: the bytes of a run at home, and an end that reaches them."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import zk0
from benchmarks.containers import IMAGE, mounts
from benchmarks.links import place, until
from benchmarks.service import small_run
from tests.docker.conftest import Engine
from zk0.config import load_config
from zk0.errors import Zk0Error
from zk0.executors.choice import stop_work

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.exhaustive]  # containers have own tests
ONE = {"federation__num_rounds": 1, "federation__min_train_clients": 1, "evaluation__frame_stride": 96}


def digest(outputs: Path) -> str:
    return hashlib.sha256((outputs / "rounds/0001/global.safetensors").read_bytes()).hexdigest()


def test_a_node_works_in_containers(docker_host: Engine, tmp_path: Path) -> None:
    home = small_run(tmp_path / "home", **ONE)
    del home["clients"][1:]
    zk0.run(home, name="run")
    with place(tmp_path) as here:
        settings = here.node("kitchen") / "node.toml"
        head, _, rules = settings.read_text().partition("[rules]")
        docker = f'[docker]\nimage = "{IMAGE}"\nmem_limit = "3g"\nmounts = {json.dumps(mounts())}\n'
        settings.write_text(f'executor = "docker"\n{head}device = "cpu"\n[rules]{rules}\n{docker}')
        here.start_node("kitchen")
        until(lambda: "SuperNode ID" in here.log("kitchen"), 300)
        far = small_run(tmp_path / "outputs", **ONE)
        far["executor"] |= {"kind": "superlink", "link": str(here.link)}
        far["clients"] = [{"name": "kitchen", "repo_id": "zk0/kitchen"}]
        zk0.run(far, name="run")
        assert digest(tmp_path / "outputs/run") == digest(tmp_path / "home/run")
        (log,) = (here.folder / "kitchen").glob("work/runs/*/rounds/0001/clients/kitchen/client.log")
        assert "train done" in log.read_text()
        assert docker_host.containers() == []
        longer = far | {"training": far["training"] | {"steps": 20_000}}
        with ThreadPoolExecutor(1) as pool:
            run = pool.submit(zk0.run, longer, name="ended")
            fit = "kitchen/work/runs/*/rounds/0001/clients/kitchen/progress.json"
            until(lambda: run.done() or (docker_host.containers() and len(list(tmp_path.glob(fit))) > 0), 300)
            stop_work(str(tmp_path / "outputs/ended"), load_config(longer))
            assert isinstance(run.exception(60), Zk0Error)
        until(lambda: docker_host.containers() == [], 60)
        with ThreadPoolExecutor(1) as pool:
            run = pool.submit(zk0.run, longer, name="ended")
            until(lambda: run.done() or docker_host.containers(), 300)
            assert docker_host.containers()
            here.end("kitchen")  # its owner stops
            assert docker_host.containers() == []
            stop_work(str(tmp_path / "outputs/ended"), load_config(longer))
            assert isinstance(run.exception(60), Zk0Error)
