"""A listener on the way between a node and its gate, which has the link's own key: what leaves, call by call."""

import re
import select
import socket
import ssl
import threading
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple, Self

from benchmarks.service import free_port

HEAD_END = b"\r\n\r\n"
PUSHES = (b"/v1/fleet/push-messages", b"/v1/fleet/push-object")


class Call(NamedTuple):
    """A request that went by."""

    target: bytes
    size: int
    """Of its body, in bytes."""


class Pushed(NamedTuple):
    """What a node has sent of answers."""

    messages: int
    body_bytes: int


class Wire:
    """Listens on a port of its own; hands everything on to the gate."""

    def __init__(self) -> None:
        self.port = free_port()
        self.calls: list[Call] = []
        self._listener: socket.socket | None = None
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()

    def listen(self, link: Path, port: int) -> None:
        """Begin.

        Args:
            link: the link's folder, with its key.
            port: of its gate.
        """
        inner = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        inner.load_cert_chain(link / "server.pem", link / "server.key")
        outer = ssl.create_default_context(cafile=str(link / "ca.pem"))
        self._listener = socket.create_server(("127.0.0.1", self.port))

        def accept() -> None:
            with suppress(OSError):
                while True:
                    sock = self._listener.accept()[0]
                    self._start(lambda sock=sock: self._relay(sock, inner, outer, port))

        self._start(accept)

    def pushed(self) -> Pushed:
        """What has been pushed so far."""
        pushed = [call for call in self.calls if call.target in PUSHES]
        return Pushed(sum(call.target == PUSHES[0] for call in pushed), sum(call.size for call in pushed))

    def _start(self, target) -> None:
        thread = threading.Thread(target=target, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _relay(self, sock: socket.socket, inner: ssl.SSLContext, outer: ssl.SSLContext, port: int) -> None:
        with suppress(OSError), closing(inner.wrap_socket(sock, server_side=True)) as node:
            plain = socket.create_connection(("127.0.0.1", port))
            with closing(outer.wrap_socket(plain, server_hostname="127.0.0.1")) as gate:
                self._carry(node, gate, self._reader())

    @staticmethod
    def _carry(node: ssl.SSLSocket, gate: ssl.SSLSocket, see) -> None:
        """Both ways in one thread: a TLS connection is nothing for two at a time."""
        while True:
            for source in select.select([node, gate], [], [])[0]:
                while True:
                    if not (chunk := source.recv(65536)):
                        return
                    if source is node:
                        see(chunk)
                    (gate if source is node else node).sendall(chunk)
                    if not source.pending():
                        break

    def _reader(self):
        """Tells the calls of one connection from its bytes."""
        kept, left = b"", 0

        def see(chunk: bytes) -> None:
            nonlocal kept, left
            kept += chunk
            while kept:
                skipped = min(left, len(kept))
                kept, left = kept[skipped:], left - skipped
                if left or HEAD_END not in kept:
                    return
                head, _, kept = kept.partition(HEAD_END)
                length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
                left = int(length[1]) if length else 0
                self.calls.append(Call(head.split(b" ", 2)[1], left))

        return see
