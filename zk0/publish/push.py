"""Sending a round's policy to the hub: a folder is made of it once, and what has arrived is not sent again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

import httpx
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from zk0.data.hub import patiently
from zk0.errors import ConfigError, PassingError, RunNameError
from zk0.federation.export import export
from zk0.files import atomic
from zk0.layout import METRICS_LINES, PUSH_FOLDER
from zk0.metrics.scores import best_round
from zk0.publish.card import card, shared_config
from zk0.runs.store import RunStore

BEST, LAST = "best", "last"
REFUSED = range(400, 500)
"""Answers that the user can do something about."""


class Parcel(NamedTuple):
    """What goes to the hub."""

    folder: Path
    server_round: int
    files: tuple[tuple[str, int], ...]
    """Path in the repository, and bytes; by name."""


def round_of(store: RunStore, wanted: str) -> int:
    """The number of the best or the last round, or of one that is named.

    Raises:
        RunNameError: it is not committed, or no longer kept.
    """
    committed = store.committed_rounds()
    if wanted == LAST and committed:
        return committed[-1]
    best = best_round(store.info.config, store.read_metrics()) if wanted == BEST else None
    number = best.server_round if best is not None else int(wanted) if wanted.isdigit() else None
    if number not in committed or number is None:
        kept = ", ".join(map(str, committed)) or "none"
        raise RunNameError(
            f"--round {wanted}: run {store.info.name!r} has no such round; give best, last, or one of: {kept}"
        )
    return number


def pack(
    store: RunStore,
    repo: str,
    wanted: str,
    *,
    merge: bool,
    licence: str | None,
    write: Callable[..., Path] = export,
) -> Parcel:
    """Make the folder that goes to the hub; what an earlier call made of the same round serves again.

    Args:
        store: the run.
        repo: the repository's id.
        wanted: `best`, `last` or a round's number.
        merge: merge the adapters into the weights.
        licence: of the policy, as the hub spells it.
        write: writes the policy of a round into a folder; as `federation.export.export`.

    Raises:
        RunNameError: there is no such round.
        StorageError: the folder cannot be written.
    """
    number = round_of(store, wanted)
    folder = store.folder / PUSH_FOLDER / f"{number}{'-merged' if merge else ''}"
    if not atomic.is_folder(folder):
        with atomic.storage_errors(folder, "written"):
            folder.parent.mkdir(parents=True, exist_ok=True)
        write(store, number, folder, merge=merge)
    rounds = store.read_metrics()
    text = card(store, rounds, number, repo, merged=merge, licence=licence)
    atomic.write_bytes(folder / "README.md", text.encode())
    atomic.write_json(folder / "zk0" / "config.json", shared_config(store.info.config))
    lines = "".join(json.dumps(line, sort_keys=True) + "\n" for line in rounds)
    atomic.write_bytes(folder / "zk0" / METRICS_LINES, lines.encode())
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return Parcel(folder, number, tuple((path.relative_to(folder).as_posix(), path.stat().st_size) for path in files))


def send(parcel: Parcel, repo: str, *, private: bool) -> str:
    """Send it; gives the address of the commit. Broken off, the same call goes on: large files that arrived are kept.

    Raises:
        ConfigError: the hub refuses: no such place, no right to write, or no token.
        PassingError: the hub cannot be reached.
    """
    api = HfApi()
    try:
        patiently(lambda: api.create_repo(repo, private=private, exist_ok=True), repo)
        words = f"zk0: round {parcel.server_round}"
        done = patiently(lambda: api.upload_folder(repo_id=repo, folder_path=parcel.folder, commit_message=words), repo)
    except HFValidationError as error:
        raise ConfigError(f"repository {repo!r}: {error}; give owner/name") from error
    except HfHubHTTPError as error:
        _refused(repo, error)
    except (httpx.HTTPError, OSError, RuntimeError) as error:  # the last: huggingface_hub's, of a large file
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        raise PassingError(
            f"repository {repo!r}: the hub cannot be reached ({type(cause).__name__}); see network and proxy, then "
            "give the same command again: what has arrived is not sent again"
        ) from None
    return str(done.commit_url)


def tidy(parcel: Parcel) -> None:
    """Remove the folder: it is on the hub."""
    shutil.rmtree(parcel.folder, ignore_errors=True)


def _refused(repo: str, error: HfHubHTTPError) -> NoReturn:
    """Say what the hub answered, in no words of its own: those may repeat what was sent."""
    status = error.response.status_code
    if status in REFUSED:
        token = "the token may not write there" if get_token() else "there is no token"
        raise ConfigError(
            f"repository {repo!r}: the hub answers {status}; {token}, or the name is not yours: `hf auth login`, "
            "with a token that may write"
        ) from None
    raise PassingError(f"repository {repo!r}: the hub answers {status}; give the same command again later") from None
