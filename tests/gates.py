"""A gate between a caller who sends any bytes, and one who stands where the SuperLink stands and keeps what comes."""

import asyncio
import re
import socket
import ssl
import threading
import time
from base64 import b64encode
from contextlib import closing, contextmanager, suppress

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks.service import free_port
from zk0.link import keys, registry
from zk0.link.settings import LinkSettings
from zk0.services.public_keys import fingerprint

PATHS = [
    "/v1/control/list-runs",
    "/v1/control/start-run",
    "/v1/runtime/acquire-task",
    "/",
    "/health",
    "/docs",
    "/openapi.json",
    "/v1/fleet",
    "/v1/fleet/",
    "/v1/fleet/register-node",
    "/v1/fleet/unregister-node",
    "/v1/fleet/../control/list-runs",
    "/v1/fleet/%2e%2e/control/list-runs",
    "/v1/fleet/..%2fcontrol/list-runs",
    "/v1/fleet/..%5ccontrol/list-runs",
    "/v1/fleet/pull-messages/../../control/list-runs",
    "/v1/fleet/pull-messages/",
    "/v1/fleet/pull-messages?x=/v1/control/list-runs",
    "/v1/fleet/pull-messages#",
    "/v1/fleet/pull-messages;x",
    "/v1/fleet/pull-messages%00",
    "//v1/fleet/../control/list-runs",
    "//v1/control/list-runs",
    "/v1//control/list-runs",
    "/V1/FLEET/pull-messages",
    "/v1/%63ontrol/list-runs",
    "http://127.0.0.1/v1/control/list-runs",
    "https://127.0.0.1:8123/v1/fleet/pull-messages",
    "*",
    "v1/fleet/pull-messages",
]
"""Targets that no registered node calls."""


class Inner:
    """Stands where the SuperLink stands, and keeps what reaches it."""

    def __init__(self, folder, port):
        self.requests, self.answer = [], b"HTTP/1.1 200 OK\r\ncontent-type: application/protobuf\r\nserver: secret\r\n"
        self.body = b"pong"
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(folder / "server.pem", folder / "server.key")
        self._port = port

    async def serve(self):
        server = await asyncio.start_server(self._talk, "127.0.0.1", self._port, ssl=self._tls)
        async with server:
            await server.serve_forever()

    async def _talk(self, reader, writer):
        with suppress(asyncio.IncompleteReadError, ConnectionError), closing(writer):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(re.search(rb"content-length: (\d+)", head, re.IGNORECASE)[1])
                self.requests.append((head, await reader.readexactly(length)))
                writer.write(self.answer + b"content-length: %d\r\n\r\n" % len(self.body) + self.body)
                await writer.drain()


@contextmanager
def in_thread(*servers):
    loop = asyncio.new_event_loop()

    async def all_of_them():
        await asyncio.gather(*(server.serve() for server in servers))

    def run():
        asyncio.set_event_loop(loop)
        task = loop.create_task(all_of_them())
        stop.append(lambda: loop.call_soon_threadsafe(task.cancel))
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.run_until_complete(asyncio.sleep(0.05))
        loop.close()

    stop: list = []
    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop[0]()
        thread.join(20)
        assert not thread.is_alive()


def pem():
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key, key.public_bytes(serialization.Encoding.PEM, form)


class Link:
    def __init__(self, folder):
        self.folder = folder
        keys.make_keys(folder, ["127.0.0.1"])
        self.port, inner = free_port(), free_port()
        self.settings = LinkSettings(host="127.0.0.1", port=self.port, inner_port=inner)
        self.inner = Inner(folder, inner)
        key, self.pem = pem()
        registry.add(folder, "kitchen", 7, fingerprint(key))

    @property
    def key(self):
        return f"flwr-public-key: {b64encode(self.pem).decode()}\r\n"

    def connected(self):
        end = time.monotonic() + 10
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.port), timeout=10)
            except ConnectionRefusedError:
                assert time.monotonic() < end
                time.sleep(0.02)

    def secured(self):
        return ssl.create_default_context(cafile=str(self.folder / "ca.pem")).wrap_socket(
            self.connected(), server_hostname="127.0.0.1"
        )

    def raw(self, request):
        """Send these very bytes, and give the status and body of the answer; None where there is none."""
        with self.secured() as connection:
            connection.sendall(request)
            content = b""
            with suppress(OSError):
                while chunk := connection.recv(65536):
                    content += chunk
                    head, _, body = content.partition(b"\r\n\r\n")
                    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
                    if length and len(body) >= int(length[1]):
                        break
        found = re.match(rb"HTTP/1\.1 (\d+)", content)
        return (int(found[1]), content.partition(b"\r\n\r\n")[2]) if found else (None, b"")

    def call(self, target="/v1/fleet/pull-messages", method="POST", headers=None, body=b"ping"):
        extra = self.key if headers is None else headers
        return self.raw(
            f"{method} {target} HTTP/1.1\r\nHost: x\r\n{extra}Content-Length: {len(body)}\r\n\r\n".encode() + body
        )
