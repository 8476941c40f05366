"""Recordings on this disk or on the hub, and a policy's cameras, by their JSON files alone: no LeRobot is needed."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zk0.config import NAME_PATTERN, resolve_path
from zk0.config.paths import absolute_path
from zk0.data.hub import HUB_ERRORS, is_hub_id
from zk0.errors import DatasetError, PolicyError
from zk0.files import atomic
from zk0.metrics.values import Json, mapping, number

INFO = Path("meta", "info.json")
DEEPEST = 3
"""Folders below the one that is named in which recordings are looked for."""
PICTURES = ("image", "video")


@dataclass(frozen=True)
class Recording:
    """A LeRobot dataset."""

    name: str
    """A client's name, made of its folder's or its id's."""
    repo_id: str
    root: Path | None
    """Its folder; None for one on the hub."""
    episodes: int
    fps: float
    robot: str
    cameras: tuple[str, ...]
    """Its pictures' features, in its order."""


def find(places: Sequence[str]) -> list[Recording]:
    """Look at recordings, or for them.

    Args:
        places: folders of recordings, folders with such below, or ids on the hub; where there are none, the working
            directory and LeRobot's own folder are searched.

    Raises:
        DatasetError: a place has none, or one cannot be read.
    """
    found: list[Recording] = []
    for place in places or _usual():
        here = list(_at(place))
        if not here and places:
            raise DatasetError(
                f"{place!r}: no recording is there: neither {INFO} in it nor in a folder below; name a folder that "
                "lerobot-record has written, or an id of the hub such as lerobot/svla_so101_pickplace"
            )
        found += here
    if not found:
        raise DatasetError(
            "no recording is found here or in LeRobot's folder; name them: zk0 init recordings/kitchen me/workshop"
        )
    return list(_named_apart(found))


def cameras_of(policy: str) -> list[str] | None:
    """The cameras that a policy takes, in its order; None where they cannot be told now.

    Raises:
        PolicyError: the path is one of this disk, and has no policy.
    """
    folder = Path(resolve_path(policy)) if ":" in policy else Path(policy)
    if folder.is_dir():
        path = folder / "config.json"
        if not atomic.is_there(path):
            raise PolicyError(f"policy {policy!r}: has no config.json; name a LeRobot pretrained_model folder")
        config = mapping(atomic.read_json(path, follow=True))
    else:
        try:
            config = _from_hub(policy, "config.json", "model")
        except HUB_ERRORS:
            return None
    features = mapping(config.get("input_features"))
    return [name for name, feature in features.items() if mapping(feature).get("type") == "VISUAL"]


def _usual() -> list[str]:
    from huggingface_hub.constants import HF_HOME

    return [".", str(Path(HF_HOME) / "lerobot")]


def _at(place: str) -> Iterator[Recording]:
    folder = absolute_path(Path(place).expanduser())
    if not atomic.is_folder(folder):
        if is_hub_id(place) and "/" in place:
            yield _hubs(place)
        return
    for info in _infos(folder, DEEPEST):
        root = info.parent.parent
        yield _recording(root.name, f"local/{root.name}", root, mapping(atomic.read_json(info, follow=True)))


def _infos(folder: Path, deeper: int) -> Iterator[Path]:
    """The descriptions of recordings in a folder and below, by name; none within a recording, or a hidden folder."""
    if atomic.is_there(folder / INFO):
        yield folder / INFO
        return
    if deeper:
        for below in sorted(atomic.listed(folder)):
            if not below.name.startswith(".") and below.is_dir() and not below.is_symlink():
                yield from _infos(below, deeper - 1)


def _hubs(repo_id: str) -> Recording:
    try:
        info = _from_hub(repo_id, INFO.as_posix(), "dataset")
    except HUB_ERRORS as error:
        raise DatasetError(
            f"{repo_id!r}: cannot be fetched from the hub ({type(error).__name__}: {error}); check the id, the network "
            "and, for a private one, `hf auth login`"
        ) from error
    return _recording(repo_id.rpartition("/")[2], repo_id, None, info)


def _from_hub(repo_id: str, file: str, kind: str) -> Json:
    from huggingface_hub import hf_hub_download

    return mapping(json.loads(Path(hf_hub_download(repo_id, file, repo_type=kind)).read_text(encoding="utf-8")))


def _recording(name: str, repo_id: str, root: Path | None, info: Json) -> Recording:
    features: dict[str, Any] = dict(mapping(info.get("features")))
    return Recording(
        name=_slug(name),
        repo_id=repo_id,
        root=root,
        episodes=int(number(info.get("total_episodes")) or 0),
        fps=number(info.get("fps")) or 0.0,
        robot=str(info.get("robot_type") or "unknown robot"),
        cameras=tuple(key for key, item in features.items() if mapping(item).get("dtype") in PICTURES),
    )


def _slug(name: str) -> str:
    """A name that a client may have."""
    slug = re.sub(r"[^a-z0-9_.-]+", "-", name.lower()).strip("-._")[:50] or "client"
    return slug if re.fullmatch(NAME_PATTERN, slug) else f"c{slug}"


def _named_apart(found: Sequence[Recording]) -> Iterator[Recording]:
    """Each once, under a name of its own."""
    taken: set[str] = set()
    seen: set[tuple[str, Path | None]] = set()
    for item in found:
        if (item.repo_id, item.root) in seen:
            continue
        seen.add((item.repo_id, item.root))
        names = (item.name if number == 1 else f"{item.name}-{number}" for number in range(1, len(found) + 1))
        name = next(name for name in names if name not in taken)
        taken.add(name)
        yield Recording(**{**item.__dict__, "name": name})
