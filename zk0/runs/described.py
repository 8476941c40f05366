"""What nodes said of their recordings, in a run over a link: `described/<client>/` stands in the place of a dataset."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zk0.config import SUPERLINK, RunConfig
from zk0.files import atomic
from zk0.layout import DESCRIBED_FOLDER, STAND_IN


def keep(run_dir: Path, said: Mapping[str, Mapping[str, Any]]) -> None:
    """Write down what nodes said, once: a run goes on with what it was begun with.

    Args:
        run_dir: of the run.
        said: client -> a preflight.records.Described, as plain values.

    Raises:
        StorageError: it cannot be written.
    """
    for client, record in said.items():
        if not is_known(run_dir, client):
            atomic.write_sealed(_file(run_dir, client), record)


def is_known(run_dir: Path, client: str) -> bool:
    """Whether a client's node has said what its recordings are like."""
    return atomic.is_there(_file(run_dir, client))


def read(run_dir: Path, clients: list[str]) -> dict[str, dict[str, Any]]:
    """What was kept, of those clients that are known.

    Raises:
        StorageError: it is there and cannot be read, or is damaged.
    """
    return {client: atomic.read_sealed(_file(run_dir, client)) for client in clients if is_known(run_dir, client)}


def placed(config: RunConfig, run_dir: Path) -> RunConfig:
    """The config with these folders as its clients' datasets; one that is not known yet stands as the first that is.

    Args:
        config: of a run; one at home is as it was.
        run_dir: of the run.
    """
    known = [client.name for client in config.clients if is_known(run_dir, client.name)]
    if config.executor.kind != SUPERLINK or not known:
        return config
    folders = {
        client.name: run_dir / DESCRIBED_FOLDER / (client.name if client.name in known else known[0])
        for client in config.clients
    }
    return with_roots(config, {name: str(folder) for name, folder in folders.items()})


def without_places(config: RunConfig) -> RunConfig:
    """The config without such folders, as run.json has it: a run may be moved."""
    return with_roots(config, {}) if config.executor.kind == SUPERLINK else config


def with_roots(config: RunConfig, roots: Mapping[str, str]) -> RunConfig:
    """The config with other folders as its clients' datasets; None for those that are not given."""
    clients = [item.model_copy(update={"root": roots.get(item.name), "revision": None}) for item in config.clients]
    return config.model_copy(update={"clients": clients})


def _file(run_dir: Path, client: str) -> Path:
    return run_dir / DESCRIBED_FOLDER / client / STAND_IN
