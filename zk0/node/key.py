"""A node's home and its key: made once, never overwritten; only the public half leaves."""

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from zk0.errors import BadInputError
from zk0.files import atomic, untrusted
from zk0.node import settings
from zk0.services.private import check_private, make_private_folder, write_new
from zk0.services.public_keys import public_line


def make_home(home: Path, values: dict[str, str]) -> ec.EllipticCurvePublicKey:
    """Make a node's home with a key of its own, and a node.toml where there is none; gives the public half.

    Args:
        home: the folder, new or without a key.
        values: for node.toml, as far as they are known.

    Raises:
        BadInputError: there is a key already.
        StorageError: it cannot be written.
    """
    make_private_folder(home)
    if there := [name for name in (settings.KEY, settings.PUBLIC_KEY) if atomic.exists(home / name)]:
        raise BadInputError(
            f"{home}: has {' and '.join(there)} already, and keys are never overwritten; `zk0 node key {home} --show` "
            "shows the public half, or choose another folder"
        )
    if not atomic.exists(home / settings.SETTINGS):
        write_new(home / settings.SETTINGS, settings.node_toml(values).encode())
    key = ec.generate_private_key(ec.SECP384R1())
    form, plain = serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    write_new(home / settings.KEY, key.private_bytes(serialization.Encoding.PEM, form, plain))
    write_new(home / settings.PUBLIC_KEY, public_line(key.public_key(), values.get("client", "zk0-node")), 0o644)
    return key.public_key()


def load_key(home: Path) -> ec.EllipticCurvePrivateKey:
    """The node's private key, which is its owner's alone.

    Raises:
        BadInputError: there is none, it is of another kind, or others may read it.
    """
    path = home / settings.KEY
    check_private(path)
    try:
        key = serialization.load_ssh_private_key(untrusted.read(path), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it wants a password
        raise BadInputError(
            f"{path}: is no private key that `zk0 node key` made; put it back, or make a new one"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise BadInputError(f"{path}: is no elliptic-curve key; make one by `zk0 node key`")
    return key
