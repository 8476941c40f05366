"""Settings of Prefect for `zk0 serve` and its children."""

import ipaddress
import os

from zk0.errors import BadInputError


def set_up_serving(host: str, port: int | None, auth: str | None) -> None:
    """Set what `zk0 serve` and its children need, before Prefect is imported.

    Args:
        host: address of the server.
        port: its port, None for Prefect's own.
        auth: `user:password`, or None for none, which only loopback may have.

    Raises:
        BadInputError: an open server was asked for, or `auth` is not of the form.
    """
    loopback = host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)
    if not loopback and auth is None:
        raise BadInputError(
            f"--host {host}: anyone there could start and change runs; give --auth user:password (or ZK0_AUTH), "
            "or keep to 127.0.0.1"
        )
    if port is not None:
        os.environ["PREFECT_SERVER_API_PORT"] = str(port)
    os.environ.setdefault("PREFECT_WORKER_QUERY_SECONDS", "5")  # a run that was put back starts within this
    if not loopback:
        os.environ.setdefault("PREFECT_UI_API_URL", "/api")  # the browser's own way to this server
    if auth is not None:
        if not all(auth.partition(":")):
            raise BadInputError("--auth: give user:password, such as --auth me:secret")
        os.environ["PREFECT_SERVER_API_AUTH_STRING"] = os.environ["PREFECT_API_AUTH_STRING"] = auth
        os.environ["PREFECT_SERVER_CSRF_PROTECTION_ENABLED"] = "true"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
