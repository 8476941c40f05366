"""A link's keys: a CA of its own, and the server certificate that nodes see, renewed without a word to the nodes."""

import ipaddress
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from zk0.errors import BadInputError
from zk0.files import atomic, untrusted
from zk0.link import settings
from zk0.services.private import check_private, make_private_folder, write_new

CA_DAYS, SERVER_DAYS = 3650, 825
"""How long the CA and a server certificate are valid; 825 days is the most that browsers and Apple's systems take."""
BACKDATED = timedelta(hours=1)
"""Certificates are valid from a little before they are made: a node's clock may be behind."""
ALWAYS = ("localhost", settings.LOOPBACK)
"""Names that every server certificate has: by them the gate knows the SuperLink behind it."""
_HOST = re.compile(
    r"(?=.{1,253}$)([a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.)*[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
)


def make_keys(folder: Path, hosts: Sequence[str], port: int | None = None) -> None:
    """Make a link's folder: CA, server certificate, link.toml; nothing that is there is overwritten.

    Args:
        folder: of the link, new or empty.
        hosts: names and addresses by which nodes reach it.
        port: that the gate listens on; the default where None.

    Raises:
        BadInputError: a host is none, or the folder has keys.
        StorageError: it cannot be written.
    """
    names = _names(hosts)
    make_private_folder(folder)
    ours = (settings.CA, settings.CA_KEY, settings.CERTIFICATE, settings.KEY, settings.SETTINGS)
    if there := [name for name in ours if atomic.exists(folder / name)]:
        raise BadInputError(
            f"{folder}: has {', '.join(there)} already, and keys are never overwritten; choose another folder, or renew"
            f" the server certificate by: zk0 link keys {folder} --renew"
        )
    ca_key, now = ec.generate_private_key(ec.SECP384R1()), datetime.now(UTC)
    ca = _ca(ca_key, now)
    write_new(folder / settings.CA_KEY, _pem(ca_key))
    write_new(folder / settings.CA, ca.public_bytes(serialization.Encoding.PEM), 0o644)
    key = ec.generate_private_key(ec.SECP384R1())
    write_new(folder / settings.KEY, _pem(key))
    certificate = _server(key, ca, ca_key, names, now)
    write_new(folder / settings.CERTIFICATE, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    values = {} if port is None else {"port": port}
    write_new(folder / settings.SETTINGS, settings.link_toml(values).encode(), 0o644)


def renew(folder: Path, hosts: Sequence[str] = ()) -> x509.Certificate:
    """Give the server a new certificate of the same CA and key, for the same names or others.

    Args:
        folder: of the link.
        hosts: names and addresses; those of the old certificate where there are none.

    Raises:
        BadInputError: a key or certificate is missing or open to others, or the CA is near its own end.
        StorageError: it cannot be written.
    """
    ca, now = load_certificate(folder / settings.CA), datetime.now(UTC)
    ca_key, key = load_key(folder / settings.CA_KEY), load_key(folder / settings.KEY)
    if ca.public_key() != ca_key.public_key():
        raise BadInputError(f"{folder / settings.CA_KEY}: is not the key of {settings.CA}; put the right one there")
    if ca.not_valid_after_utc < now + timedelta(days=SERVER_DAYS):
        raise BadInputError(
            f"{folder / settings.CA}: the CA itself ends on {ca.not_valid_after_utc:%Y-%m-%d}; make a new link folder, "
            "and give its ca.pem to the owners"
        )
    names = _names(hosts) if hosts else names_of(load_certificate(folder / settings.CERTIFICATE))
    certificate = _server(key, ca, ca_key, names, now)
    atomic.write_bytes(folder / settings.CERTIFICATE, certificate.public_bytes(serialization.Encoding.PEM))
    return certificate


def load_certificate(path: Path) -> x509.Certificate:
    """A PEM certificate.

    Raises:
        BadInputError: there is none.
    """
    try:
        return x509.load_pem_x509_certificate(untrusted.read(path))
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read ({error.strerror or error}); put the certificate there") from error
    except ValueError as error:
        raise BadInputError(f"{path}: is no certificate in PEM; put the certificate there") from error


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A private key that is the owner's alone.

    Raises:
        BadInputError: there is none, or others may read it.
    """
    check_private(path)
    try:
        key = serialization.load_pem_private_key(untrusted.read(path), None)
    except (OSError, ValueError, TypeError) as error:  # TypeError: it wants a password
        raise BadInputError(f"{path}: is no private key in PEM without a password; put the key there") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise BadInputError(f"{path}: is no elliptic-curve key; put the key there that `zk0 link keys` made")
    return key


def names_of(certificate: x509.Certificate) -> list[str]:
    """The names and addresses that a server certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [
        *names.get_values_for_type(x509.DNSName),
        *map(str, names.get_values_for_type(x509.IPAddress)),
    ]


def _names(hosts: Sequence[str]) -> list[str]:
    """Hosts for a certificate, with those that it always has.

    Raises:
        BadInputError: one is no name and no address, or there is none.
    """
    if not hosts:
        raise BadInputError("--host: name the host name or address by which nodes reach this machine")
    for host in hosts:
        if not _is_address(host) and not _HOST.fullmatch(host):
            raise BadInputError(
                f"--host = {host[:80]!r}: is neither a host name nor an IP address; give it without scheme and port"
            )
    return list(dict.fromkeys([*hosts, *ALWAYS]))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _ca(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "zk0 link CA")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        _begun(name, name, key.public_key(), now, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA384())
    )


def _server(
    key: ec.EllipticCurvePrivateKey,
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    names: Sequence[str],
    now: datetime,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "zk0 link")])
    alternatives = [
        x509.IPAddress(ipaddress.ip_address(name)) if _is_address(name) else x509.DNSName(name) for name in names
    ]
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    return (
        _begun(subject, ca.subject, key.public_key(), now, SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(authority, critical=False)
        .sign(ca_key, hashes.SHA384())
    )


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, plain)
