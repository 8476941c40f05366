"""Settings of Prefect, made before it is imported: those that every run needs, and those of `zk0 serve`."""

import ipaddress
import os
import ssl
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import getproxies

from pydantic import ValidationError

from zk0.errors import BadInputError
from zk0.runs.lock import usable_folder

DEFAULTS = {
    # The default budget of 62 s kills a flow whose server is away for two minutes.
    "PREFECT_CLIENT_MAX_RETRIES": "8",
    # Leases in memory leak a slot when the holder and the server both die.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    # A start that waits for the end of the run before looks again after this, and each look is a state that is kept.
    # `zk0 serve` tells it when its turn has come: flows/queue.py.
    "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "300",
    # Two a minute of each run, kept for a week by default.
    "PREFECT_SERVER_SERVICES_DB_VACUUM_EVENT_RETENTION_OVERRIDES": '{"prefect.flow-run.heartbeat": 86400}',
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # Results are never persisted; without this a stray one would land in the user's home whatever PREFECT_HOME says.
    "PREFECT_TASKS_DEFAULT_PERSIST_RESULT": "false",
    # A server that is away costs a line of 2,000 characters for each event; zk0 says it once: flows/patience.py.
    "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
    # Flows and tasks speak through zk0's log; Prefect's own lines would tear the live view.
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}
"""What a run of days needs, of itself, its server and its worker."""
NEVER_PROXIED = ("127.0.0.1", "localhost", "::1")
"""A proxy's loopback is another machine's."""
PROXIES = ("http", "https", "socks5", "socks5h")
"""Kinds that httpx knows."""


def set_defaults() -> None:
    """Set the defaults, for this process and its children, before Prefect is imported; a user's environment wins.

    Raises:
        BadInputError: Prefect could not keep its files, or use a proxy or a setting.
    """
    for key, value in DEFAULTS.items():
        os.environ.setdefault(key, value)
    for key in ("NO_PROXY", "no_proxy"):  # some libraries read the one, some the other
        given = os.environ.get(key) or os.environ.get(key.swapcase()) or ""
        listed = [item.strip() for item in given.split(",") if item.strip()]
        os.environ[key] = ",".join([*listed, *(item for item in NEVER_PROXIED if item not in listed)])
    _check_proxies()
    _check_home()
    _check_settings()


def _check_settings() -> None:
    """Prefect itself fails with a traceback, in the middle of its import."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of what is raised just after
            from prefect.settings import Settings, load_profiles

            Settings()
            load_profiles()
    except ValidationError as error:
        first = error.errors()[0]
        given = str(first["input"])
        named = [key for key, value in os.environ.items() if key.startswith("PREFECT_") and value == given]
        name = " or ".join(named) or f"{error.title}, {'.'.join(map(str, first['loc']))}"
        raise BadInputError(
            f"{name} = {given!r}: Prefect cannot use this setting ({first['msg']}); correct or unset it"
        ) from error
    except (ValueError, OSError) as error:
        raise BadInputError(
            f"Prefect's settings cannot be read ({error}); correct profiles.toml in {_prefect_home()}, or "
            f"prefect.toml, pyproject.toml or .env in {Path.cwd()}"
        ) from error


def _check_proxies() -> None:
    """Prefect's client makes ready for each proxy that is set, also for a server that is not reached through one."""
    for key in ("http", "https", "all"):
        address = getproxies().get(key, "")
        kind, separator, _ = address.partition("://")
        if separator and kind.lower() not in PROXIES:
            raise BadInputError(
                f"{key.upper()}_PROXY = {address!r}: a proxy of kind {kind!r}, which Prefect cannot use; give one of "
                f"{', '.join(PROXIES)}, or unset it"
            )

    _check_by_client()


def _check_by_client() -> None:
    """What else its client cannot use: it reads all of them as addresses, those that are not proxied, too."""
    import httpx

    for key in ("http", "https", "all"):
        if address := getproxies().get(key, ""):
            with _one_sentence(f"{key.upper()}_PROXY", address, "host:port"):
                httpx.Proxy(address if "://" in address else f"http://{address}")
    with _one_sentence("NO_PROXY", os.environ["NO_PROXY"], "hosts and addresses, as ::1, not [::1] or ::1/128"):
        httpx.Client(verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)).close()


@contextmanager
def _one_sentence(name: str, given: str, form: str) -> Iterator[None]:
    import httpx

    try:
        yield
    except (httpx.InvalidURL, ValueError) as error:
        raise BadInputError(f"{name} = {given!r}: Prefect cannot use it ({error}); give {form}, or unset it") from error


def _check_home() -> None:
    """Prefect itself fails with a traceback, in the middle of its import."""
    given, home = os.environ.get("PREFECT_HOME"), _prefect_home()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        said = f"PREFECT_HOME = {given!r}" if given else f"HOME = {os.environ.get('HOME')!r}"
        raise BadInputError(
            f"{said}: Prefect cannot keep its files in {home} ({error.strerror}); set PREFECT_HOME to a folder that "
            "you can write"
        ) from error


def _prefect_home() -> Path:
    return Path(os.path.expanduser(os.environ.get("PREFECT_HOME") or "~/.prefect"))  # noqa: PTH111 - Path's raises


def set_up_serving(host: str, port: int | None, auth: str | None, outputs: Path) -> Path:
    """Set what `zk0 serve` and its children need, before Prefect is imported.

    Args:
        host: address of the server.
        port: its port, None for Prefect's own.
        auth: `user:password`, or None for none, which only loopback may have.
        outputs: the folder of the runs.

    Returns:
        The absolute path of that folder.

    Raises:
        BadInputError: runs could not be kept there, an open server was asked for, `auth` is not of the form; or see
            `set_defaults`.
    """
    folder = usable_folder(outputs, "--outputs")
    set_defaults()
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
    return folder


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
