"""A link with Flower's own SuperLink behind the gate, and nodes that join, are unknown, or are turned away."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.proto.control_pb2 import ListRunsRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient

from benchmarks.links import Place, environment_of, place, until

pytestmark = pytest.mark.slow

AS_SUPEREXEC = [RuntimeVersionHttpInterceptor(component_name="flower-superexec")]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory.mktemp("federation")) as found:
        yield found


def asked(here: Place, port: int, client: Any, call: str, request: object) -> int:
    """Do what a stranger with nothing but the CA's certificate does; gives the status of the answer."""
    made = client.from_server_address(
        server_address=f"{here.host}:{port}",
        insecure=False,
        root_certificates=(here.link / "ca.pem").read_bytes(),
        interceptors=AS_SUPEREXEC,
    )
    try:
        getattr(made, call)(request)
    except httpx.HTTPStatusError as error:
        return error.response.status_code
    finally:
        made.close()
    return 200


STRANGERS = [
    (RuntimeHttpClient, "AcquireTask", AcquireTaskRequest(supported_task_types=["flwr-serverapp"])),
    (ControlHttpClient, "ListRuns", ListRunsRequest()),
]


@pytest.mark.parametrize(("client", "call", "request_"), STRANGERS, ids=[call for _, call, _ in STRANGERS])
def test_a_stranger_can_neither_take_tasks_nor_see_runs_but_who_is_inside_can(here, client, call, request_):
    assert asked(here, here.port, client, call, request_) == 403
    assert asked(here, here.inner_port, client, call, request_) == 200  # else this would show nothing
    assert f"turned away {here.host}: asked for /v1/" in here.log("link")


def test_a_stranger_cannot_register_a_key(here, tmp_path):
    (tmp_path / "config.toml").write_text(
        f'[superlink]\ndefault = "x"\n[superlink.x]\naddress = "{here.host}:{here.port}"\n'
        f'root-certificates = "{here.link / "ca.pem"}"\n'
    )
    here.node("shed", registered=False)
    words = ["supernode", "register", str(here.folder / "shed" / "key.pub"), "x", "--format", "json"]
    environment = {**os.environ, "FLWR_HOME": str(tmp_path)}
    command = [str(Path(sys.executable).parent / "flwr"), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert '"success": false' in done.stdout, done.stdout + done.stderr
    until(lambda: f"turned away {here.host}: asked for /v1/control/register-node" in here.log("link"))


def test_a_registered_node_joins_and_a_revoked_one_is_out_at_once(here):
    here.node("kitchen")
    here.start_node("kitchen")
    until(lambda: "SuperNode ID" in here.log("kitchen"))
    assert re.search(r"kitchen +online", here.zk0("link", "link", "status", here.link))
    here.zk0("link", "link", "revoke", here.link, "kitchen")
    until(lambda: "supernode ended" in here.log("kitchen"), 60)
    assert re.search(r"turned away 'kitchen' \(.*\): the key SHA256:\S+ was revoked", here.log("link"))
    here.end("kitchen")
    assert not environment_of(str(here.folder / "kitchen"))


@pytest.mark.exhaustive  # tests/unit/link/test_gate.py has the gate's part of it
def test_a_node_with_an_unknown_key_is_told_so_in_both_logs(here):
    said = here.zk0("shed", "node", "check", here.folder / "shed", "--no-recordings", fails=True)
    assert re.search(r"registration +error +the link says", said)
    here.start_node("shed")
    until(lambda: "supernode ended" in here.log("shed"))
    assert re.search(r"the coordinator has not registered this key.*SHA256:", here.log("shed"))
    assert re.search(r"turned away .*: the key SHA256:\S+ is not registered", here.log("link"))
    here.end("shed")


@pytest.mark.exhaustive  # tests/unit/services/test_keeper.py has the keeper's part of it
def test_a_killed_superlink_and_gate_are_brought_back_and_know_who_is_registered(here):
    for name in ("superlink", "gate"):
        before = here.part("link", name)
        assert before is not None
        os.kill(before, signal.SIGKILL)
        until(partial(brought_back, here, name, before))
    until(lambda: asked_or_none(here) == 403)
    here.node("study")
    assert here.status("kitchen") == "not registered"
    assert here.status("study") == "registered"


def brought_back(here: Place, name: str, before: int) -> bool:
    return here.part("link", name) not in (None, before)


def asked_or_none(here: Place) -> int | None:
    try:
        return asked(here, here.port, *STRANGERS[1])
    except httpx.TransportError:
        return None
