"""The gate lets the calls of registered nodes pass, to the letter, and says whom it turned away."""

import ssl
import time
from base64 import b64encode

import pytest

from benchmarks.service import free_port
from tests.gates import PATHS, Link, in_thread, pem
from zk0.link import calls, gate, keys, registry
from zk0.link.settings import LinkSettings
from zk0.services.public_keys import fingerprint


@pytest.fixture(scope="module")
def link(tmp_path_factory):
    found = Link(tmp_path_factory.mktemp("link"))
    with in_thread(found.inner, gate.Gate(found.folder, found.settings)):
        found.connected().close()
        yield found


@pytest.fixture(autouse=True)
def fresh(link):
    link.inner.requests.clear()


@pytest.fixture
def said(monkeypatch):
    lines: list[str] = []
    monkeypatch.setattr(calls.Nodes, "say", staticmethod(lines.append))
    monkeypatch.setattr(calls, "SAID_AGAIN_S", 0.0)
    return lines


def test_a_registered_nodes_calls_pass_with_flowers_headers_alone(link):
    headers = link.key + "X-Forwarded-For: 1.2.3.4\r\nflwr-timestamp: now\r\nAuthorization: x\r\nCookie: y\r\n"
    assert link.call(headers=headers) == (200, b"pong")
    ((head, body),) = link.inner.requests
    assert head.startswith(b"POST /v1/fleet/pull-messages HTTP/1.1\r\n")
    assert body == b"ping"
    assert b"flwr-timestamp: now" in head
    for word in (b"1.2.3.4", b"Authorization", b"Cookie"):
        assert word.lower() not in head.lower()


def test_every_call_that_flowers_nodes_make_passes_and_no_other(link):
    from flwr.superlink.routers.fleet.router import router

    theirs = {getattr(route, "path", "") for route in router.routes} - {
        "/v1/fleet/register-node",
        "/v1/fleet/unregister-node",
    }
    assert theirs == {*calls.FLEET.values()}
    for path in theirs:
        assert link.call(path)[0] == 200
    assert len(link.inner.requests) == len(theirs)


@pytest.mark.parametrize("target", PATHS)
@pytest.mark.parametrize("registered", [True, False])
def test_nothing_else_reaches_the_superlink_whoever_asks(link, target, registered):
    status, _ = link.call(target, headers=None if registered else "")
    expected = (403, 400) if registered else (400, 401)
    assert status in (expected if target.startswith("/v1/fleet/") else (403,))
    assert not link.inner.requests


@pytest.mark.parametrize("method", ["GET", "PUT", "OPTIONS", "CONNECT", "HEAD", "PRI"])
def test_other_methods_do_not_pass(link, method):
    status, _ = link.call(method=method)
    assert status == 403
    assert not link.inner.requests


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("Transfer-Encoding: chunked\r\n", 411),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 411),
        ("Content-Length: 4\r\nContent-Length: 5\r\n", 400),
        ("Content-Length: -1\r\n", 400),
        ("Content-Length: 99999999999\r\n", 413),
        ("", 411),
        ("Content-Length: 0\r\nflwr-public-key: eA==\r\n", 400),
        ("Content-Length: 0\r\nfolded: a\r\n b\r\nbad header\r\n", 400),
        ("Content-Length: 0\r\nlong: " + "x" * 20_000 + "\r\n", 431),
    ],
)
def test_requests_that_two_servers_could_read_differently_do_not_pass(link, head, status):
    request = f"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\n{link.key}{head}\r\n".encode()
    assert link.raw(request)[0] == status
    assert not link.inner.requests


def test_a_second_request_behind_the_first_is_judged_by_itself(link):
    second = b"POST /v1/control/start-run HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    request = f"POST /v1/fleet/get-run HTTP/1.1\r\nHost: x\r\n{link.key}Content-Length: 0\r\n\r\n".encode() + second
    link.raw(request)
    link.call()  # whatever was under way is done
    assert {head.split(b" ")[1] for head, _ in link.inner.requests} == {
        b"/v1/fleet/get-run",
        b"/v1/fleet/pull-messages",
    }


def test_who_has_no_key_an_unknown_or_a_revoked_one_is_turned_away_by_name(link, said):
    _, other = pem()
    revoked, its = pem()
    registry.add(link.folder, "study", 9, fingerprint(revoked))
    its_header = f"flwr-public-key: {b64encode(its).decode()}\r\n"
    assert link.call(headers=its_header)[0] == 200
    registry.remove(link.folder, "study")
    status, body = link.call(headers=its_header)
    assert (status, b"was revoked" in body) == (401, True)
    status, body = link.call("/v1/fleet/activate-node", headers=its_header)
    assert (status, b"was revoked" in body) == (400, True)  # 400, for Flower shows the words of it
    for header, words in (
        (f"flwr-public-key: {b64encode(other).decode()}\r\n", "is not registered"),
        ("", "has no key"),
        ("flwr-public-key: %%%\r\n", "that is none"),
        ("flwr-public-key: eA==\r\n", "that is none"),
    ):
        status, body = link.call(headers=header)
        assert (status, words.encode() in body) == (401, True)
        assert any(words in line for line in said)
    assert any("turned away 'study' (127.0.0.1): the key SHA256:" in line for line in said)
    assert len(link.inner.requests) == 1


def test_control_calls_are_said_with_the_name_of_who_made_them(link, said):
    link.call("/v1/control/list-runs\x1b[31m".replace("\x1b", "%1b"))
    link.call("/v1/control/list-runs", headers="")
    assert [line for line in said if "'kitchen' (127.0.0.1): asked for /v1/control/list-runs%1b[31m" in line]
    assert [line for line in said if "turned away 127.0.0.1: asked for /v1/control/list-runs:" in line]


def test_who_speaks_without_tls_is_told_and_said(link, said):
    with link.connected() as plain:
        plain.sendall(b"POST /v1/fleet/activate-node HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = plain.recv(65536)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"TLS alone" in answer
    assert any("speaks without TLS" in line for line in said)


def test_who_does_not_trust_the_ca_is_said(link, said):
    with link.connected() as plain, pytest.raises(ssl.SSLCertVerificationError):
        ssl.create_default_context().wrap_socket(plain, server_hostname="127.0.0.1")
    end = time.monotonic() + 10
    while not any("does not trust this link's CA" in line for line in said):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_what_the_superlink_refuses_is_said_by_name(link, said, monkeypatch):
    monkeypatch.setattr(link.inner, "answer", b"HTTP/1.1 409 Conflict\r\ncontent-type: application/json\r\n")
    monkeypatch.setattr(link.inner, "body", b'{"code": 2004, "detail": "no"}')
    assert link.call() == (409, b'{"code": 2004, "detail": "no"}')
    assert any("'kitchen'" in line and "2004" in line for line in said)


def test_a_superlink_that_is_down_is_a_503_that_nodes_wait_for(link, said, tmp_path):
    keys.make_keys(tmp_path / "l", ["127.0.0.1"])
    key, its = pem()
    registry.add(tmp_path / "l", "kitchen", 7, fingerprint(key))
    alone = Link.__new__(Link)
    alone.folder, alone.port, alone.pem = tmp_path / "l", free_port(), its
    settings = LinkSettings(host="127.0.0.1", port=alone.port, inner_port=free_port())
    with in_thread(gate.Gate(alone.folder, settings)):
        assert alone.call()[0] == 503
    assert any("the SuperLink does not answer" in line for line in said)


def test_who_is_slow_is_ended(link, monkeypatch, said):
    monkeypatch.setattr(gate, "HANDSHAKE_S", 0.2)
    monkeypatch.setattr(gate, "HEADER_S", 0.2)
    monkeypatch.setattr(gate, "IDLE_S", 0.5)
    with link.connected() as silent:
        silent.settimeout(10)
        assert silent.recv(1) == b""
    with link.connected() as begun:
        begun.sendall(b"\x16\x03")
        assert begun.recv(1) == b""
    for words in (
        b"POST /v1/fleet/pull-m",
        b"",
        f"POST /v1/fleet/get-run HTTP/1.1\r\nHost: x\r\n{link.key}Content-Length: 9\r\n\r\nx".encode(),
    ):
        with link.secured() as connection:
            connection.sendall(words)
            assert connection.recv(1) == b""
    assert not link.inner.requests


def test_one_address_cannot_take_all_connections(link, monkeypatch, said):
    monkeypatch.setattr(gate, "MOST_OF_ONE", 3)
    held = [link.connected() for _ in range(8)]
    try:
        end = time.monotonic() + 10
        while not any("too many" in line for line in said):
            assert time.monotonic() < end
            time.sleep(0.02)
    finally:
        for connection in held:
            connection.close()


def test_a_renewed_certificate_is_taken_without_a_restart(link):
    before = ssl.get_server_certificate(("127.0.0.1", link.port))
    keys.renew(link.folder)
    assert ssl.get_server_certificate(("127.0.0.1", link.port)) != before
    assert link.call()[0] == 200


def test_the_same_is_not_said_again_and_again(link, monkeypatch):
    lines: list[str] = []
    monkeypatch.setattr(calls.Nodes, "say", staticmethod(lines.append))
    for _ in range(20):
        link.call("/v1/runtime/again")
    assert len([line for line in lines if "/v1/runtime/again" in line]) == 1


def test_when_a_node_called_last_is_kept(link):
    end = time.monotonic() + 20
    while not (link.folder / calls.SEEN).exists():
        link.call(headers=link.key + "flwr-package-version: 1.41.0\r\n")
        assert time.monotonic() < end
    assert '"kitchen"' in (link.folder / calls.SEEN).read_text()
