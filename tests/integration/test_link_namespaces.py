"""A link and nodes on machines of their own: who is turned away, by name, in both logs."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from benchmarks.links import Place, until
from benchmarks.namespaces import LINK_ADDRESS, Namespaces
from benchmarks.service import free_port
from zk0.services.keeper import end_group

pytestmark = [pytest.mark.exhaustive, pytest.mark.root]  # minutes; the gate and TLS are held by tests/unit/link

BIN = Path(sys.executable).parent
AS_STRANGER = """
import sys, httpx
from flwr.proto.control_pb2 import ListNodesRequest, ListRunsRequest, RegisterNodeRequest, StartRunRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PullTaskInputRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
address, ca = sys.argv[1:]
for kind, calls in {
    RuntimeHttpClient: {
        "AcquireTask": AcquireTaskRequest(supported_task_types=["flwr-serverapp"]),
        "PullTaskInput": PullTaskInputRequest(),
    },
    ControlHttpClient: {
        "ListRuns": ListRunsRequest(), "ListNodes": ListNodesRequest(), "StartRun": StartRunRequest(),
        "RegisterNode": RegisterNodeRequest(public_key=b"x"),
    },
}.items():
    for call, request in calls.items():
        client = kind.from_server_address(
            server_address=address, insecure=False, root_certificates=open(ca, "rb").read(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flower-superexec")],
        )
        try:
            getattr(client, call)(request)
            print(call, 200)
        except httpx.HTTPStatusError as error:
            print(call, error.response.status_code)
        except httpx.TransportError as error:
            print(call, "unreachable")
        except TypeError:  # a stream is begun when it is read
            print(call, "stream")
"""
EXPIRED = """
import sys
from pathlib import Path
from zk0.link import keys
keys.SERVER_DAYS = -1
keys.BACKDATED = keys.timedelta(days=3)
keys.renew(Path(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def spaces() -> Iterator[Namespaces]:
    try:
        made = Namespaces(["kitchen", "study", "stranger"])
    except PermissionError as error:
        pytest.skip(str(error))
    with closing(made) as found:
        yield found


@pytest.fixture(scope="module")
def here(spaces: Namespaces, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    found = Place(tmp_path_factory.mktemp("federation"), LINK_ADDRESS, spaces.within)
    try:
        found.start_link()
        found.node("kitchen")
        found.start_node("kitchen")
        until(lambda: "SuperNode ID" in found.log("kitchen"))
        yield found
    finally:
        found.close()


def ran(here: Place, spaces: Namespaces, party: str, *command: str, seconds: float = 120) -> str:
    words = [*spaces.within(party), *map(str, command)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=seconds, cwd=here.folder)
    return done.stdout + done.stderr


@contextmanager
def supernode(here: Place, spaces: Namespaces, party: str, *options: str) -> Iterator[Path]:
    """Flower's own SuperNode, started by hand; gives the file with what it says."""
    command = [
        BIN / "flower-supernode",
        "--superlink",
        f"{here.host}:{here.port}",
        "--port",
        str(free_port()),
        *options,
    ]
    out = here.folder / f"{party}-by-hand.out"
    with out.open("wb") as file:
        words = [*spaces.within(party), *map(str, command)]
        path = {"PATH": f"{BIN}:{os.environ['PATH']}"}  # it starts Flower's superexec by name
        process = subprocess.Popen(words, stdout=file, stderr=file, start_new_session=True, env=os.environ | path)
    try:
        yield out
    finally:
        end_group(process.pid)
        process.wait()


def test_a_stranger_with_the_cas_certificate_gets_403_and_no_further(here, spaces):
    ca = str(here.link / "ca.pem")
    words = (sys.executable, "-c", AS_STRANGER)
    said = ran(here, spaces, "stranger", *words, f"{here.host}:{here.port}", ca)
    answers = dict(line.split(" ", 1) for line in said.splitlines())
    assert len(answers) == 6, said
    assert set(answers.values()) <= {"403", "stream"}, said
    assert [*answers.values()].count("403") >= 5, said
    inner = ran(here, spaces, "stranger", *words, f"{here.host}:{here.inner_port}", ca)
    assert inner.count("unreachable") >= 5, inner
    assert re.search(r"turned away 10\.77\.0\.13: asked for /v1/runtime/", here.log("link"))


def test_no_key_is_said_in_both_logs(here, spaces):
    with supernode(here, spaces, "stranger", "--root-certificates", str(here.link / "ca.pem")) as said:
        until(lambda: "zk0's gate: " in said.read_text())
    assert "turned away 10.77.0.13: the key SHA256:" in here.log("link")  # Flower makes one up, which nobody knows


def test_plain_text_is_said_in_both_logs(here, spaces):
    with supernode(here, spaces, "stranger", "--insecure"):
        until(lambda: "turned away 10.77.0.13: speaks without TLS" in here.log("link"))
    plain = [*spaces.within("link"), sys.executable, "-m", "http.server", "8000", "--bind", LINK_ADDRESS]
    with subprocess.Popen(plain, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        here.node("stranger", registered=False, link=f"{LINK_ADDRESS}:8000")
        here.start_node("stranger")
        until(lambda: "speaks without TLS" in here.log("stranger"))
        here.end("stranger")
        server.kill()


def test_another_ca_is_said_in_both_logs(here, spaces, tmp_path):
    here.zk0("link", "link", "keys", tmp_path / "other", "--host", LINK_ADDRESS)
    here.node("study", registered=False, ca=tmp_path / "other" / "ca.pem")
    here.start_node("study")
    until(lambda: "another CA" in here.log("study"))
    until(lambda: "turned away 10.77.0.12: does not trust this link's CA" in here.log("link"))
    here.end("study")
    (here.folder / "study" / "ca.pem").write_bytes((here.link / "ca.pem").read_bytes())


def test_an_expired_certificate_is_said_and_a_renewed_one_is_taken_up(here, spaces):
    ran(here, spaces, "link", sys.executable, "-c", EXPIRED, str(here.link))
    here.start_node("study")
    until(lambda: "certificate has expired" in here.log("study"))
    until(lambda: "says that this link's certificate has expired" in here.log("link"))
    here.zk0("link", "link", "keys", here.link, "--renew")
    here.zk0("link", "link", "register", here.link, "study", here.folder / "study" / "key.pub")
    until(lambda: "SuperNode ID" in here.log("study"), 150)
    assert "superlink is started anew" in here.log("link")


def test_a_key_that_is_used_twice_is_said_and_the_first_goes_on(here, spaces):
    options = ("--root-certificates", str(here.link / "ca.pem"), "--auth-supernode-private-key")
    with supernode(here, spaces, "stranger", *options, str(here.folder / "study" / "key")) as said:
        until(lambda: "2004" in said.read_text())
    assert re.search(
        r"turned away 'study' \(10\.77\.0\.13\): the SuperLink refuses activate-node .*2004", here.log("link")
    )
    assert here.status("study") == "online"


def test_a_cut_cable_is_mended_and_the_node_is_there_again(here, spaces):
    until(lambda: here.status("kitchen") == "online", 400)  # its SuperNode gave up when the certificate had expired
    spaces.cut("kitchen")
    until(lambda: here.status("kitchen") == "offline", 200)
    spaces.cut("kitchen", up=True)
    until(lambda: here.status("kitchen") == "online", 400)


def test_a_revoked_key_is_said_in_both_logs(here, spaces):
    here.zk0("link", "link", "revoke", here.link, "study")
    until(lambda: "supernode ended" in here.log("study"))
    until(lambda: re.search(r"turned away 'study' \(10\.77\.0\.12\): the key SHA256:\S+ was revoked", here.log("link")))
    until(lambda: "has revoked this key" in here.log("study"), 150)
