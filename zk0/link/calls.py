"""Which calls a gate lets pass, and whose: by the path to the letter, and by the key that was registered."""

import json
import sys
import time
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path

import h11
import httpx

from zk0.errors import StorageError
from zk0.files import atomic, untrusted
from zk0.link import registry
from zk0.link.settings import CLIENTS
from zk0.services.public_keys import fingerprint_of_pem

PREFIX = b"/v1/fleet/"
FLEET = {
    PREFIX + name: (PREFIX + name).decode()
    for name in (
        b"activate-node",
        b"deactivate-node",
        b"send-node-heartbeat",
        b"pull-messages",
        b"push-messages",
        b"get-run",
        b"get-fab",
        b"push-object",
        b"pull-object",
        b"confirm-message-received",
    )
}
"""Target of a request, byte by byte -> path at the SuperLink. Registration is the coordinator's."""
BEGINNING = (PREFIX + b"activate-node", PREFIX + b"register-node")
"""A node's first call: an answer of 400 with words is shown in its log; of 401, at any later call, ends it."""
KEY_HEADER, VERSION_HEADER = b"flwr-public-key", b"flwr-package-version"
HEADERS = (b"content-type", b"accept", b"user-agent")
"""Headers that are handed on, besides Flower's own `flwr-...`."""
MOST_HEADER_BYTES = 16_384
SEEN = "seen.json"
"""In the link's folder: when each client's node called last, from where, with which Flower."""
SEEN_S = 5.0
SAID_AGAIN_S = 60.0
"""The same is not said again within so many seconds."""
MOST_SAID = 1000
CODE = 4030
"""Of our own refusals, as Flower's errors have one."""


@dataclass(frozen=True)
class Answer:
    """A response of the gate."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    reply: httpx.Response | None = None
    """Of the SuperLink, whose body follows."""
    why: str = ""
    """Of a refusal."""
    closes: bool = False

    async def chunks(self) -> AsyncIterator[bytes]:
        """Its body, piece by piece."""
        if self.reply is None:
            yield self.body
            return
        async for chunk in self.reply.aiter_raw():
            yield chunk


def refuse(status: int, why: str) -> Answer:
    """A refusal that Flower's nodes write into their log."""
    body = json.dumps({"code": CODE, "detail": f"zk0's gate: {why}"}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"date", formatdate(usegmt=True).encode()),
    ]
    return Answer(status, headers, body, why=why, closes=True)


@dataclass
class Nodes:
    """The registered nodes as a gate sees them."""

    folder: Path
    _known: registry.Known = field(default_factory=lambda: registry.Known({}, {}))
    _stamp: tuple[int, ...] = ()
    _said: dict[tuple[str, str], float] = field(default_factory=dict)
    _seen: dict[str, dict[str, str]] = field(default_factory=dict)
    _written: float = 0.0

    def judge(self, address: str, request: h11.Request) -> Answer | None:
        """Refuse a call that is none of a registered node; None where it may pass."""
        target, headers = bytes(request.target), dict(request.headers)
        if sum(len(name) + len(value) for name, value in request.headers) > MOST_HEADER_BYTES:
            self.turned_away(address, "sent long headers")
            return refuse(431, "the headers are too long")
        if len(headers) != len(request.headers):
            self.turned_away(address, "sent a header twice")
            return refuse(400, "a header is there twice")
        who, why = self._who(headers.get(KEY_HEADER))
        if not target.startswith(PREFIX):
            called = untrusted.printable(target.decode(errors="replace")[:120])
            self.turned_away(address, f"asked for {called}: nodes may call /v1/fleet/ alone", who)
            return refuse(403, "nodes may call /v1/fleet/ alone")
        if why is not None:
            self.turned_away(address, why, who)
            return refuse(400 if target in BEGINNING else 401, why)
        if target not in FLEET or request.method != b"POST":
            called = untrusted.printable(f"{request.method.decode()} {target.decode(errors='replace')}"[:120])
            self.turned_away(address, f"called {called}, which no registered node does", who)
            return refuse(400 if target in BEGINNING else 403, "no call that registered nodes make")
        self._saw(address, who, headers.get(VERSION_HEADER, b""))
        return None

    async def answer(self, address: str, request: h11.Request, reply: httpx.Response) -> Answer:
        """The SuperLink's answer; what it refuses is said in the log."""
        headers = [(name.lower(), value) for name, value in reply.headers.raw]
        kept = [item for item in headers if item[0] == b"content-type" or item[0].startswith(b"flwr-")]
        if not reply.is_error:
            length = [item for item in headers if item[0] == b"content-length"]
            return Answer(reply.status_code, kept + length, reply=reply)
        body = await reply.aread()
        who, _ = self._who(dict(request.headers).get(KEY_HEADER))
        call, words = (
            bytes(request.target).removeprefix(PREFIX).decode(),
            untrusted.words(body.decode(errors="replace")),
        )
        self.turned_away(address, f"the SuperLink refuses {call} ({reply.status_code}): {words[:300]}", who)
        return Answer(reply.status_code, [*kept, (b"content-length", str(len(body)).encode())], body)

    @staticmethod
    def passes(header: bytes) -> bool:
        """Whether a header is handed on."""
        return header in HEADERS or header.startswith(b"flwr-")

    def turned_away(self, address: str, why: str, who: str | None = None) -> None:
        """Say in the log whom the gate turned away, and why; the same not again and again."""
        name = f"{who!r} ({address})" if who else address
        now, key = time.monotonic(), (name, why)
        if now - self._said.get(key, -SAID_AGAIN_S) < SAID_AGAIN_S:
            return
        if len(self._said) > MOST_SAID:
            self._said.clear()
        self._said[key] = now
        self.say(f"turned away {name}: {why}")

    @staticmethod
    def say(text: str) -> None:
        """A line for the link's log."""
        sys.stderr.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} gate: {untrusted.printable(text)}\n")
        sys.stderr.flush()

    def _who(self, header: bytes | None) -> tuple[str | None, str | None]:
        """The client that a key belongs to, and why it may not call, if it may not."""
        if header is None:
            return None, "has no key: a node starts with its private key, by `zk0 node start`"
        try:
            fingerprint = fingerprint_of_pem(b64decode(header, validate=True))
        except Base64Error:
            fingerprint = None
        if fingerprint is None:
            return None, "has a key that is none"
        known = self._registered()
        if (name := known.registered.get(fingerprint)) is not None:
            return name, None
        if (name := known.revoked.get(fingerprint)) is not None:
            return name, f"the key {fingerprint} was revoked"
        return None, f"the key {fingerprint} is not registered: give key.pub to the coordinator"

    def _registered(self) -> registry.Known:
        """As the coordinator left it: read again when it changes, and kept where it cannot be read."""
        try:
            stamp = tuple(item for name in (CLIENTS, registry.REVOKED) for item in _stamp(self.folder / name))
            if stamp != self._stamp:
                self._known, self._stamp = registry.known(self.folder), stamp
        except StorageError as error:
            self.turned_away("gate", f"the list of registered nodes cannot be read, the last one serves: {error}")
        return self._known

    def _saw(self, address: str, who: str | None, version: bytes) -> None:
        """Keep when a node called last."""
        at = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        flower = untrusted.printable(version.decode(errors="replace")[:40])
        self._seen[str(who)] = {"at": at, "address": address, "flwr": flower}
        if time.monotonic() - self._written > SEEN_S:
            self._written = time.monotonic()
            try:
                atomic.write_json(self.folder / SEEN, self._seen)
            except StorageError as error:
                self.turned_away("gate", str(error))


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes when a file does."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return (0,)
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror})") from error
    return found.st_ino, found.st_mtime_ns, found.st_size
