"""A server that is not the right one is named as what it is, with a remedy; nothing is sent to it."""

import contextlib
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta

import pytest

from zk0.errors import BadInputError, LinkError
from zk0.link import keys
from zk0.services import tls


@contextlib.contextmanager
def server(folder=None, answer=b"", host="127.0.0.1"):
    """Takes one connection after the other, with the certificate of a folder where there is one."""
    context = None
    if folder is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.pem", folder / "server.key")
    received: list[bytes] = []

    def serve(listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), connection:
                connection.settimeout(10)
                if context is not None:
                    connection = context.wrap_socket(connection, server_side=True)
                received.append(connection.recv(65536))
                connection.sendall(answer)
                connection.close()

    listener = socket.create_server((host, 0))
    thread = threading.Thread(target=serve, args=(listener,))
    thread.start()
    try:
        yield listener.getsockname(), received
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(20)


@pytest.fixture(scope="module")
def link(tmp_path_factory):
    folder = tmp_path_factory.mktemp("link")
    keys.make_keys(folder, ["127.0.0.1"])
    return folder


def test_the_right_one_tells_its_certificate_answers_and_clock(link):
    now = datetime.now(UTC)
    answer = f"HTTP/1.1 403 Forbidden\r\nDate: {now:%a, %d %b %Y %H:%M:%S} GMT\r\n\r\nno".encode()
    with server(link, answer) as (address, received):
        seen = tls.look(address, link / "ca.pem", ("/a", "/b"), "key: x\r\n")
    assert seen.statuses == {"/a": 403, "/b": 403}
    assert seen.details["/b"] == "no"
    assert seen.ends > now + timedelta(days=800)
    assert abs(seen.clock - now) < timedelta(seconds=2)
    assert received[0].startswith(b"POST /a HTTP/1.1\r\n")
    assert b"key: x\r\n" in received[0]


def test_plain_text_is_seen_and_no_request_is_sent(link):
    plain = server(answer=b"HTTP/1.1 200 OK\r\n\r\n")
    with plain as (address, received), pytest.raises(LinkError, match="speaks without TLS"):
        tls.look(address, link / "ca.pem", ("/a",), "flwr-public-key: x\r\n")
    assert b"flwr-public-key" not in b"".join(received)


def test_another_ca_is_no_link(link, tmp_path):
    keys.make_keys(tmp_path / "other", ["127.0.0.1"])
    with server(tmp_path / "other") as (address, _), pytest.raises(LinkError, match="another CA"):
        tls.look(address, link / "ca.pem")


@pytest.mark.parametrize(("days", "words"), [(-1, "has expired"), (400, "not valid yet")])
def test_a_certificate_that_is_over_or_not_yet_valid(tmp_path, monkeypatch, days, words):
    keys.make_keys(tmp_path, ["127.0.0.1"])
    now = datetime.now(UTC)
    begun = keys._begun

    def made(*arguments):
        builder = begun(*arguments)
        builder._not_valid_before = (now + timedelta(days=days - 1)).replace(tzinfo=None)
        builder._not_valid_after = (now + timedelta(days=days)).replace(tzinfo=None)
        return builder

    monkeypatch.setattr(keys, "_begun", made)
    keys.renew(tmp_path)
    with server(tmp_path) as (address, _), pytest.raises(LinkError, match=words):
        tls.look(address, tmp_path / "ca.pem")


def test_a_certificate_for_another_name(tmp_path):
    keys.make_keys(tmp_path, ["zk0.example.org"])
    with server(tmp_path, host="127.0.0.2") as (address, _), pytest.raises(LinkError, match="for another name"):
        tls.look(address, tmp_path / "ca.pem")


def test_nobody_there_no_name_no_answer(link, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        monkeypatch.setattr(tls, "TIMEOUT_S", 0.3)
        with pytest.raises(LinkError, match="no TLS comes about"):
            tls.look(("127.0.0.1", port), link / "ca.pem")  # takes the connection, and says nothing
    with pytest.raises(LinkError, match="see whether the link runs"):
        tls.look(("127.0.0.1", port), link / "ca.pem")
    with pytest.raises(LinkError, match="correct `link`"):
        tls.look(("no-such-name.invalid", 1), link / "ca.pem")


def test_what_speaks_no_http_behind_tls(link):
    with server(link, b"220 mail\r\n") as (address, _), pytest.raises(LinkError, match="no HTTP"):
        tls.look(address, link / "ca.pem", ("/a",))


def test_a_ca_that_is_none(link, tmp_path):
    (tmp_path / "ca.pem").write_text("x")
    for path in (tmp_path / "ca.pem", tmp_path / "none"):
        with pytest.raises(BadInputError, match=r"link's ca\.pem"):
            tls.look(("127.0.0.1", 1), path)
