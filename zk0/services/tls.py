"""Looks at a TLS server as a client would: whether it is one, whose certificate it has, and until when."""

import re
import socket
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import NamedTuple

from cryptography import x509

from zk0.errors import BadInputError, LinkError
from zk0.files import untrusted

TIMEOUT_S = 10.0
MOST_BYTES = 65_536


class Seen(NamedTuple):
    """What a server showed of itself."""

    ends: datetime
    """When its certificate ends."""
    statuses: dict[str, int]
    """Path -> HTTP status of the answer to it."""
    details: dict[str, str]
    """Path -> the answer's body, shortened."""
    clock: datetime | None
    """Its time, as it says it; None where it does not."""


def look(endpoint: tuple[str, int], ca: Path, paths: tuple[str, ...] = (), headers: str = "") -> Seen:
    """Connect with TLS, and ask for a few paths.

    Args:
        endpoint: host and port.
        ca: certificate of the CA, the only one that is trusted.
        paths: to be asked for by POST, without a body.
        headers: of these requests, besides the usual ones, each with its line end.

    Raises:
        LinkError: nobody answers, it is no TLS, or the certificate is not the CA's, ended or for another name.
        BadInputError: the CA's certificate cannot be used.
    """
    trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        trusted.load_verify_locations(cafile=str(ca))
    except (OSError, ssl.SSLError) as error:
        raise BadInputError(
            f"{ca}: is no certificate of a CA ({error}); ask the coordinator for the link's ca.pem"
        ) from error
    where = f"{endpoint[0]}:{endpoint[1]}"
    statuses, details, clock, ends = {}, {}, None, datetime.now(UTC)
    for path in paths or (None,):
        with _connected(endpoint, where) as plain, _secured(plain, trusted, endpoint[0], where) as connection:
            ends = _ends(connection)
            if path is not None:
                statuses[path], details[path], clock = _asked(connection, where, path, headers)
    return Seen(ends, statuses, details, clock)


def _connected(endpoint: tuple[str, int], where: str) -> socket.socket:
    try:
        return socket.create_connection(endpoint, timeout=TIMEOUT_S)
    except socket.gaierror as error:
        raise LinkError(f"{where}: this name is not known ({error.strerror}); correct `link`") from error
    except TimeoutError as error:
        raise LinkError(f"{where}: no answer in {TIMEOUT_S:.0f} s; see whether the network lets it pass") from error
    except OSError as error:
        raise LinkError(
            f"{where}: cannot be reached ({error.strerror or error}); see whether the link runs, and whether the "
            "network lets calls pass"
        ) from error


def _secured(plain: socket.socket, trusted: ssl.SSLContext, host: str, where: str) -> ssl.SSLSocket:
    try:
        return trusted.wrap_socket(plain, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        raise LinkError(f"{where}: {_mistrust(error)}") from error
    except ssl.SSLError as error:
        if error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNEXPECTED_MESSAGE"):
            why = "speaks without TLS, in plain text; a link never does, nothing was sent"
        else:
            why = f"TLS fails ({error.reason}); is it a link that listens there"
        raise LinkError(f"{where}: {why}; ask the coordinator for the right address") from error
    except OSError as error:
        why = error.strerror or str(error) or "it is too slow"
        raise LinkError(
            f"{where}: no TLS comes about ({why}); is it a link that listens there? Ask the coordinator for the right "
            "address"
        ) from error


def _mistrust(error: ssl.SSLCertVerificationError) -> str:
    """Why a certificate is not trusted; numbers are OpenSSL's X509_V_ERR."""
    if error.verify_code == 10:
        return "its certificate has expired; ask the coordinator to run `zk0 link keys FOLDER --renew`"
    if error.verify_code == 9:
        return "its certificate is not valid yet; see whether this machine's clock is right"
    if error.verify_code in (18, 19, 20, 21):
        return "its certificate is of another CA than ca.pem; ask the coordinator for ca.pem, and do not go on before"
    if error.verify_code in (62, 64):
        return "its certificate is for another name; put the name or address into `link` that the coordinator gave"
    return f"its certificate is not trusted ({error.verify_message}); ask the coordinator"


def _ends(connection: ssl.SSLSocket) -> datetime:
    found = connection.getpeercert(binary_form=True)
    assert found is not None
    return x509.load_der_x509_certificate(found).not_valid_after_utc


def _asked(connection: ssl.SSLSocket, where: str, path: str, headers: str) -> tuple[int, str, datetime | None]:
    request = f"POST {path} HTTP/1.1\r\nHost: {where}\r\nContent-Length: 0\r\nConnection: close\r\n{headers}\r\n"
    content = b""
    try:
        connection.sendall(request.encode("ascii"))
        while len(content) < MOST_BYTES and (chunk := connection.recv(MOST_BYTES)):
            content += chunk
    except OSError as error:
        raise LinkError(f"{where}: ends the connection ({error}); see the link's log") from error
    head, _, body = content.partition(b"\r\n\r\n")
    status = re.match(rb"HTTP/1\.[01] (\d{3})", head)
    if status is None:
        raise LinkError(f"{where}: speaks TLS, but no HTTP; ask the coordinator for the right address")
    date = re.search(rb"^date: *([\x20-\x7e]+)\r?$", head, re.IGNORECASE | re.MULTILINE)
    return int(status[1]), untrusted.words(body.decode(errors="replace"))[:300], _time(date[1] if date else b"")


def _time(text: bytes) -> datetime | None:
    try:
        return parsedate_to_datetime(text.decode("ascii"))
    except ValueError:
        return None
