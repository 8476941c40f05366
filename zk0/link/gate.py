"""The gate before a SuperLink: TLS, the calls of registered nodes, and nothing else; `python -m zk0.link.gate FOLDER`.

The SuperLink's one port serves nodes, the coordinator's commands and running apps alike, and whoever reaches it with
nothing but the CA certificate can start runs. No web server at hand says who was turned away before HTTP began, or ends
who sends a header letter by letter; Caddy, nginx or HAProxy can stand here instead: deployments/.
"""

import asyncio
import contextlib
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import h11
import httpx

from zk0.files import untrusted
from zk0.link import settings
from zk0.link.calls import FLEET, MOST_HEADER_BYTES, Answer, Nodes, refuse
from zk0.link.settings import LinkSettings, load_link

HANDSHAKE_S, HEADER_S, IDLE_S, ANSWER_S = 10.0, 15.0, 90.0, 120.0
"""What a caller has for the TLS handshake, a request's head once it has begun, the pause between two requests; and what
the SuperLink has for an answer."""
SLOWEST_BPS = 4096
"""Bytes per second that a body must come with, and an answer be taken with."""
MOST_BODY_BYTES = 16 * 2**20
"""Flower sends arrays in pieces of 5 MiB."""
MOST_CONNECTIONS, MOST_OF_ONE, MOST_BODIES = 1024, 128, 32
"""Connections at a time, of all and of one address; and bodies that are held in memory at a time."""
CHUNK = 65_536
TLS_RECORD = b"\x16"
"""The first byte of a TLS handshake."""
PLAIN = (
    b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
)


class _Caller(NamedTuple):
    address: str
    sock: socket.socket


class Gate:
    """One gate: listens, and hands on what may pass."""

    def __init__(self, folder: Path, link: LinkSettings) -> None:
        """Prepare.

        Args:
            folder: of the link.
            link: its link.toml.

        Raises:
            OSError: the certificate or the CA cannot be read, or does not fit the key.
        """
        self._folder, self._link = folder, link
        self._nodes = Nodes(folder)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_2
        self._tls.set_alpn_protocols(["http/1.1"])
        self._load_certificate()
        trusted = ssl.create_default_context(cafile=str(folder / settings.CA))
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        self._inner = httpx.AsyncClient(
            base_url=f"https://{link.inner_address}", verify=trusted, timeout=ANSWER_S, limits=limits, trust_env=False
        )
        self._connections: dict[asyncio.Task[None], str] = {}
        self._bodies = asyncio.Semaphore(MOST_BODIES)

    async def serve(self) -> None:
        """Listen until cancelled.

        Raises:
            OSError: the address cannot be had.
        """
        family = socket.AF_INET6 if ":" in self._link.host else socket.AF_INET
        loop = asyncio.get_running_loop()
        with socket.create_server((self._link.host, self._link.port), family=family, backlog=256) as listener:
            listener.setblocking(False)
            self._nodes.say(f"the gate listens on {self._link.host}:{self._link.port}")
            try:
                while True:
                    sock, address = await loop.sock_accept(listener)
                    self._admit(_Caller(str(address[0]), sock))
            finally:
                for task in self._connections:
                    task.cancel()
                await self._inner.aclose()

    def _admit(self, caller: _Caller) -> None:
        """Talk with a caller, unless there are too many."""
        of_one = sum(address == caller.address for address in self._connections.values())
        if len(self._connections) >= MOST_CONNECTIONS or of_one >= MOST_OF_ONE:
            caller.sock.close()
            self._nodes.turned_away(caller.address, f"{of_one} connections of this address are open, too many")
            return
        task = asyncio.get_running_loop().create_task(self._talk(caller))
        self._connections[task] = caller.address
        task.add_done_callback(lambda done: self._connections.pop(done, None))

    async def _talk(self, caller: _Caller) -> None:
        """One connection, from its first byte to its end."""
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                pair = await self._secured(caller)
        except TimeoutError:
            self._nodes.turned_away(caller.address, "said nothing of TLS in time")
            pair = None
        except OSError as error:  # ssl.SSLError is one
            self._nodes.turned_away(caller.address, _tls_words(error))
            pair = None
        if pair is None:
            caller.sock.close()
            return
        reader, writer = pair
        try:
            await self._requests(caller.address, reader, writer)
        except (OSError, TimeoutError, h11.RemoteProtocolError) as error:
            if not isinstance(error, OSError):
                self._nodes.turned_away(caller.address, f"ended: {str(error) or 'too slow'}")
        finally:
            writer.close()

    async def _secured(self, caller: _Caller) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """TLS on a connection; None, and a word to the log, where the caller speaks without.

        Raises:
            OSError: the handshake fails.
        """
        loop = asyncio.get_running_loop()
        caller.sock.setblocking(False)
        first = await _peeked(caller.sock)
        if first != TLS_RECORD:
            if first:
                self._nodes.turned_away(caller.address, "speaks without TLS")
                body = refuse(400, "this link speaks TLS alone; start the node with its ca.pem").body
                with contextlib.suppress(OSError):
                    await loop.sock_sendall(caller.sock, PLAIN % (len(body), body))
            return None
        self._load_certificate()
        reader = asyncio.StreamReader(limit=CHUNK, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol, caller.sock, ssl=self._tls, ssl_handshake_timeout=HANDSHAKE_S
        )
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    async def _requests(self, address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """All requests of a connection, one after the other.

        Raises:
            TimeoutError, OSError, h11.RemoteProtocolError: the caller is too slow, gone, or speaks no HTTP/1.1.
        """
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST_HEADER_BYTES)
        while True:
            try:
                request = await self._head(http, reader)
                if request is None:
                    return
                async with self._answered(address, http, request, reader) as answer:
                    await _send(http, writer, answer)
            except h11.RemoteProtocolError as error:
                if http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                    await _send(http, writer, refuse(error.error_status_hint, "no request that nodes make"))
                raise
            if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
                return  # a body was not read, or the caller wants no more
            http.start_next_cycle()

    @staticmethod
    async def _head(http: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
        """The next request's head; None where there is none any more."""
        begun = False
        while (event := http.next_event()) is h11.NEED_DATA:
            async with asyncio.timeout(HEADER_S if begun else IDLE_S):
                http.receive_data(await reader.read(CHUNK))
            begun = True
        if isinstance(event, h11.Request):
            return event
        return None

    @contextlib.asynccontextmanager
    async def _answered(
        self, address: str, http: h11.Connection, request: h11.Request, reader: asyncio.StreamReader
    ) -> AsyncIterator[Answer]:
        """What a request is answered with: a refusal of ours, or the SuperLink's answer, which is streamed."""
        refusal = self._nodes.judge(address, request)
        if refusal is None and (refusal := _unfit(request)) is not None:
            self._nodes.turned_away(address, refusal.why)
        if refusal is not None:
            yield refusal
            return
        async with self._bodies:
            body = await _body(http, reader, request)
            headers = [(name, value) for name, value in request.headers if self._nodes.passes(name)]
            target = FLEET[bytes(request.target)]  # our own text, never the caller's
            wanted = self._inner.build_request("POST", target, content=body, headers=headers)
            try:
                reply = await self._inner.send(wanted, stream=True)
            except httpx.HTTPError as error:
                self._nodes.say(
                    f"the SuperLink does not answer ({type(error).__name__}); nodes try again by themselves"
                )
                yield refuse(503, "the link's SuperLink does not answer now")
                return
        try:
            yield await self._nodes.answer(address, request, reply)
        finally:
            await reply.aclose()

    def _load_certificate(self) -> None:
        """Take the server certificate as it is now: it may have been renewed."""
        self._tls.load_cert_chain(self._folder / settings.CERTIFICATE, self._folder / settings.KEY)


def _unfit(request: h11.Request) -> Answer | None:
    """Why a call of a registered node cannot be handed on."""
    headers = dict(request.headers)
    length = headers.get(b"content-length", b"")
    if not length.isdigit() or b"transfer-encoding" in headers:
        return refuse(411, "a call has a length")
    return refuse(413, "a call is too long") if int(length) > MOST_BODY_BYTES else None


async def _body(http: h11.Connection, reader: asyncio.StreamReader, request: h11.Request) -> bytes:
    length = int(dict(request.headers)[b"content-length"])
    parts = []
    async with asyncio.timeout(HEADER_S + length / SLOWEST_BPS):
        while not isinstance(event := http.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                http.receive_data(await reader.read(CHUNK))
            elif isinstance(event, h11.Data):
                parts.append(bytes(event.data))
            else:
                raise h11.RemoteProtocolError("the connection ended within a call")
    return b"".join(parts)


async def _send(http: h11.Connection, writer: asyncio.StreamWriter, answer: Answer) -> None:
    """Send an answer, to a caller who takes it."""
    headers = [*answer.headers]
    if answer.closes:
        headers.append((b"connection", b"close"))

    async def send(event: h11.Response | h11.Data | h11.EndOfMessage) -> None:
        writer.write(http.send(event) or b"")
        async with asyncio.timeout(HEADER_S + CHUNK / SLOWEST_BPS):
            await writer.drain()

    await send(h11.Response(status_code=answer.status, headers=headers))
    async for chunk in answer.chunks():
        await send(h11.Data(data=chunk))
    await send(h11.EndOfMessage())


async def _peeked(sock: socket.socket) -> bytes:
    """The first byte that a caller sends, which stays to be read; empty where there is none."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)
    return sock.recv(1, socket.MSG_PEEK)


def _tls_words(error: OSError) -> str:
    """Why a TLS handshake failed, in words."""
    reason = str(getattr(error, "reason", "") or error)
    known = {
        "TLSV1_ALERT_UNKNOWN_CA": "does not trust this link's CA: it has another ca.pem",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED": "says that this link's certificate has expired",
        "SSLV3_ALERT_BAD_CERTIFICATE": "does not take this link's certificate: it is for another name",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "does not take this link's certificate",
    }
    return next((words for key, words in known.items() if key in reason), f"TLS fails: {reason[:120]}")


async def _main(folder: Path) -> None:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await Gate(folder, load_link(folder)).serve()


def main() -> None:
    """Run the gate of a folder; one line and code 1 where it cannot."""
    folder = Path(sys.argv[1])
    try:
        asyncio.run(_main(folder))
    except OSError as error:
        sys.exit(f"gate: {untrusted.words(error)}")


if __name__ == "__main__":
    main()
