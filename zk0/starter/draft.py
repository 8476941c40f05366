"""The text of a first config: commented, with a rename_map proposed for each recording."""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from zk0.starter.recordings import Recording

LAST = ("wrist", "gripper", "hand", "arm")
"""Words of a camera that looks from the arm: after those that look at the scene, as SmolVLA's base has them."""
HELD_OUT = 3


def rename_map(cameras: Sequence[str], policy: Sequence[str]) -> dict[str, str]:
    """Which camera of a recording is which of a policy's: by its name, by a name that is near, then by order.

    Args:
        cameras: the recording's.
        policy: the policy's.
    """
    left = [name for name in cameras if name not in policy]
    free = [name for name in policy if name not in cameras]
    renames: dict[str, str] = {}
    for name in list(left):
        near = difflib.get_close_matches(_last(name), [_last(item) for item in free], n=1, cutoff=0.75)
        if near:
            target = next(item for item in free if _last(item) == near[0])
            renames[name] = target
            left.remove(name)
            free.remove(target)
    left.sort(key=lambda name: any(word in _last(name).lower() for word in LAST))
    return renames | dict(zip(left, free, strict=False))


def draft(found: Sequence[Recording], policy: str, cameras: Sequence[str] | None, folder: Path) -> str:
    """The config as TOML.

    Args:
        found: the recordings, a client each.
        policy: the base.
        cameras: those that it takes; None where that could not be told.
        folder: where the file will lie: recordings below it are named from there.
    """
    return "\n".join([*_head(found), *_clients(found, cameras, folder), *_tail(found, policy)]) + "\n"


def _head(found: Sequence[Recording]) -> Iterator[str]:
    yield "# Written by `zk0 init`. Read it through, above all each rename_map; then: zk0 check-data, and zk0 run."
    yield "# Every key: docs/config.md of zk0."
    yield ""
    yield "seed = 42"
    yield ""
    yield "[federation]"
    yield "num_rounds = 20           # round 0 is the base, evaluated"
    yield f"min_train_clients = {len(found)}     # fewer updates than this end a round; less, if one may be away"
    yield ""


def _clients(found: Sequence[Recording], cameras: Sequence[str] | None, folder: Path) -> Iterator[str]:
    for item in found:
        yield "[[clients]]"
        yield f"name = {_text(item.name)}"
        where = "the hub's" if item.root is None else "a label: the recordings lie in `root`"
        yield f"repo_id = {_text(item.repo_id)}    # {where}"
        if item.root is not None:
            near = item.root.is_relative_to(folder)
            yield f"root = {_text((item.root.relative_to(folder) if near else item.root).as_posix())}"
        yield f"# {item.episodes} episodes at {item.fps:g} fps, {_plain(item.robot)}"
        yield f"# cameras: {_plain(', '.join(item.cameras)) or 'none'}"
        if cameras is None:
            yield "# the base's cameras could not be read now; where names differ, map them:"
            yield '# rename_map = { "observation.images.front" = "observation.images.camera1" }'
        else:
            yield from _renames(item, cameras)
        yield ""


def _renames(item: Recording, cameras: Sequence[str]) -> Iterator[str]:
    renames = rename_map(item.cameras, cameras)
    if renames:
        yield f"rename_map = {_table(renames)}    # a proposal: see that each camera looks as the base's does"
    given = {renames.get(name, name) for name in item.cameras}
    if spare := [name for name in item.cameras if renames.get(name, name) not in cameras]:
        yield f"# not used, the base has no camera for it: {_plain(', '.join(spare))}"
    if lacking := [name for name in cameras if name not in given]:
        yield f"# the base has cameras that this recording lacks: {', '.join(lacking)}"


def _tail(found: Sequence[Recording], policy: str) -> Iterator[str]:
    fewest = min(item.episodes for item in found)
    held_out = min(HELD_OUT, max(1, fewest - 1))
    yield "[policy]"
    yield f"path = {_text(policy)}"
    yield ""
    yield "[training]"
    yield "steps = 100               # per client and round"
    yield "batch_size = 8            # lower it when a client runs out of memory; it is halved by itself, too"
    yield ""
    yield "[data]"
    yield 'normalization = "federated"    # counts and moments leave a client, no frames; "own": not even those'
    yield ""
    yield "[evaluation]"
    yield f"holdout_episodes = {held_out}      # the last ones of each recording: never trained on"
    yield "frame_stride = 10         # every tenth frame: neighbours hardly differ"


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _text(value: str) -> str:
    """A JSON string is a TOML string, too."""
    return json.dumps(value, ensure_ascii=False)


def _plain(value: str) -> str:
    """In a comment: no end of line, no sign that TOML forbids there."""
    return "".join(letter if letter.isprintable() else "?" for letter in value)


def _table(renames: Mapping[str, str]) -> str:
    return "{ " + ", ".join(f"{_text(old)} = {_text(new)}" for old, new in renames.items()) + " }"
