"""What a run is of besides its config: its recordings, which must stay the same, and the versions it was begun with."""

from collections.abc import Mapping

from loguru import logger

from zk0.errors import DatasetError
from zk0.runs.records import digest_of
from zk0.runs.store import RunStore
from zk0.runs.versions import versions

MOST_NAMES = 3
"""Files that a message names."""
Files = Mapping[str, Mapping[str, str]]
"""Dataset -> path within it -> SHA-256."""


def check(store: RunStore, files: Files) -> None:
    """See that a run that goes on has the recordings that it was begun with; other versions are named in the log.

    What it was not begun with, because it was made before, or lay on the hub still, is noted at the next lock.

    Args:
        store: the run.
        files: what its datasets hold now, as far as they are here.

    Raises:
        DatasetError: names every dataset that has changed, and what of it.
    """
    _name_versions(store)
    before = store.data_files()
    changed = [
        f"dataset {name!r}: its recordings are not those that run {store.info.name!r} was begun with"
        f"{_differences(before.get(name), now)}; put them back as they were, or start a new run by --name"
        for name, now in files.items()
        if store.info.data.get(name, digest_of(now)) != digest_of(now)
    ]
    if changed:
        raise DatasetError("\n".join(changed))
    store.note_files(files)


def _differences(before: Mapping[str, str] | None, now: Mapping[str, str]) -> str:
    """Which files; nothing where the run's note of them is lost."""
    if before is None:
        return ""
    parts = [
        ("changed", [name for name in now if name in before and before[name] != now[name]]),
        ("new", [name for name in now if name not in before]),
        ("gone", [name for name in before if name not in now]),
    ]
    named = [f"{what}: {_some(names)}" for what, names in parts if names]
    return f" ({'; '.join(named)})" if named else ""


def _some(names: list[str]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _name_versions(store: RunStore) -> None:
    """Warn of packages that are not those that the run was begun with: its result is of both then."""
    here = versions()
    differing = [
        f"{name} {then} (now {here[name]})"
        for name, then in store.info.versions.items()
        if name in here and then != here[name]
    ]
    if differing:
        logger.warning(
            "run {} was begun with {}: it may end otherwise than with these versions alone",
            *(store.info.name, ", ".join(differing)),
        )
