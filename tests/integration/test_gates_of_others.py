"""nginx, Caddy and HAProxy as they are shipped in deployments/gates: the calls of nodes pass, and nothing else."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.gates import PATHS, Link, in_thread
from zk0.link import calls

pytestmark = [pytest.mark.exhaustive]  # programs of others, by configs of ours that seldom change

GATES = Path(__file__).parents[2] / "deployments" / "gates"


def nginx(folder, text):
    whole = f"daemon off; pid {folder}/pid; error_log stderr; events {{}} http {{ access_log off;\n"
    for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"):
        whole += f"{kind}_temp_path {folder}/{kind};\n"
    config = folder / "nginx.conf"
    config.write_text(f"{whole}{text}\n}}")
    return ["nginx", "-c", str(config), "-e", "stderr"]


def caddy(folder, text):
    (folder / "Caddyfile").write_text(text)
    return ["caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


def haproxy(folder, text):
    (folder / "haproxy.pem").write_bytes((folder / "server.pem").read_bytes() + (folder / "server.key").read_bytes())
    (folder / "haproxy.cfg").write_text(text.replace("/etc/haproxy/zk0-link.pem", str(folder / "haproxy.pem")))
    return ["haproxy", "-db", "-f", str(folder / "haproxy.cfg")]


FILES = {"nginx": ("nginx.conf", nginx), "caddy": ("Caddyfile", caddy), "haproxy": ("haproxy.cfg", haproxy)}


@pytest.fixture(scope="module", params=FILES)
def link(request, tmp_path_factory):
    if shutil.which(request.param) is None:
        pytest.skip(f"needs {request.param}")
    found = Link(tmp_path_factory.mktemp("link"))
    name, command = FILES[request.param]
    text = (GATES / name).read_text().replace("/srv/zk0-link", str(found.folder))
    text = text.replace("8124", str(found.port)).replace("127.0.0.1:8123", found.settings.inner_address)
    out = (found.folder / "out").open("wb")
    with in_thread(found.inner), out:
        process = subprocess.Popen(command(found.folder, text), stdout=out, stderr=out)
        try:
            found.connected().close()
            yield found
        finally:
            process.kill()
            process.wait()


@pytest.fixture(autouse=True)
def fresh(link):
    link.inner.requests.clear()


def test_the_shipped_file_names_the_calls_that_our_gate_knows():
    for name, _ in FILES.values():
        for path in calls.FLEET.values():
            assert path.rpartition("/")[2] in (GATES / name).read_text()


def test_nodes_calls_pass(link):
    for path in calls.FLEET.values():
        assert link.call(path, headers=link.key + "flwr-timestamp: now\r\n") == (200, b"pong")
    assert len(link.inner.requests) == len(calls.FLEET)
    for (head, body), path in zip(link.inner.requests, calls.FLEET.values(), strict=True):
        assert head.startswith(f"POST {path} HTTP/1.1\r\n".encode())
        assert b"flwr-timestamp: now" in head.lower()
        assert body == b"ping"


@pytest.mark.parametrize("target", PATHS)
def test_nothing_else_reaches_the_superlink(link, target):
    status, _ = link.call(target)
    seen = {re.match(rb"(\S+) (\S+) ", head).groups() for head, _ in link.inner.requests}
    assert seen <= {(b"POST", path) for path in calls.FLEET}, seen  # what is written otherwise, and means the same
    if "fleet" not in target.lower() or ".." in target or "%2e" in target:
        assert status in (400, 403, 404)
        assert not seen


@pytest.mark.parametrize("method", ["GET", "PUT", "OPTIONS", "HEAD", "PRI"])
def test_other_methods_do_not_pass(link, method):
    assert link.call(method=method)[0] in (400, 403, 405, None)
    assert not link.inner.requests


def test_a_second_request_behind_the_first_is_judged_by_itself(link):
    second = b"POST /v1/control/start-run HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    request = f"POST /v1/fleet/get-run HTTP/1.1\r\nHost: x\r\n{link.key}Content-Length: 0\r\n\r\n".encode() + second
    link.raw(request)
    link.call()
    assert {head.split(b" ")[1] for head, _ in link.inner.requests} == {
        b"/v1/fleet/get-run",
        b"/v1/fleet/pull-messages",
    }


def test_what_is_too_long_does_not_pass(link):
    head = f"POST /v1/fleet/push-object HTTP/1.1\r\nHost: x\r\n{link.key}Content-Length: 99999999\r\n\r\n"
    assert link.raw(head.encode())[0] in (413, 502, None)
    assert link.call(headers=link.key + "long: " + "x" * 70_000 + "\r\n")[0] in (400, 414, 431, None)
    assert not link.inner.requests
