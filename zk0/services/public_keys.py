"""Public keys of nodes: read as ssh-keygen writes them, and named by their fingerprints."""

from base64 import b64encode
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from zk0.errors import BadInputError
from zk0.files import untrusted


def read_public(path: Path) -> ec.EllipticCurvePublicKey:
    """A node's public key, as `zk0 node key` and ssh-keygen write it.

    Raises:
        BadInputError: there is none, or of another kind.
    """
    try:
        content = untrusted.read(path)
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read ({error.strerror or error}); give the owner's key.pub") from error
    if b"PRIVATE KEY" in content:
        raise BadInputError(
            f"{path}: is a private key, which nobody but its owner may have; ask for key.pub, and for a new key: this "
            "one has been shown"
        )
    try:
        key = serialization.load_ssh_public_key(content.strip())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadInputError(
            f"{path}: is no public key as `zk0 node key` writes it; give the owner's key.pub"
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise BadInputError(
            f"{path}: is no elliptic-curve key (ecdsa-sha2-nistp384); the owner makes one by `zk0 node key`"
        )
    return key


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """What `ssh-keygen -l` shows: SHA256 and base64."""
    return "SHA256:" + b64encode(serialization.ssh_key_fingerprint(key, hashes.SHA256())).decode().rstrip("=")


def fingerprint_of_pem(pem: bytes) -> str | None:
    """The fingerprint of a key as Flower sends it; None where it is none."""
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        return None
    return fingerprint(key) if isinstance(key, ec.EllipticCurvePublicKey) else None


def public_line(key: ec.EllipticCurvePublicKey, comment: str) -> bytes:
    """A line as in a .pub file of ssh-keygen."""
    line = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return line + b" " + comment.encode() + b"\n"
