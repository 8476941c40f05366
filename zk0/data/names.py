"""The names of a feature's dimensions, in every shape in which LeRobot's recorders and converters write them."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

PICTURES = ("image", "video")
CAMERA_AXES = (["height", "width", "channels"], ["channels", "height", "width"])
"""A picture's axes as they are stored; LeRobot tells the two by the third name alone."""
CHANNELS = (1, 3, 4)
"""A picture's channels: a depth map, colours, colours with transparency."""


def given_names(feature: Mapping[str, Any]) -> list[str] | None:
    """The names that info.json gives to a feature's dimensions, in order; None where it gives none.

    LeRobot takes a list, lists in a list (Unitree's converter), groups of lists (`{"motors": [...]}`), groups of
    groups, a place for each name (`{"x": 0, "y": 1}`), numbers, a single name, or null. A name that stands in several
    groups comes with that of its group; one that is there twice all the same, with its place.
    """
    names = feature.get("names")
    if isinstance(names, Mapping) and _are_places(names):
        return [str(name) for name, _ in sorted(names.items(), key=lambda item: int(item[1]))]
    paths = list(_leaves(names, ()))
    if not any(paths):
        return None
    named = [path[-1] if path else "" for path in paths]
    if _doubles(named):
        twice = _doubles(named)
        named = [".".join(path) if path and path[-1] in twice else path[-1] if path else "" for path in paths]
    twice = _doubles(named)
    return [
        f"{name}_{place}" if name in twice else name or f"joint_{place}" for place, name in enumerate(named)
    ]  # a null among names is none


def fitting_names(feature: Mapping[str, Any]) -> list[str] | None:
    """The names of a feature's dimensions; None where there are none, or not as many as dimensions.

    LeRobot never counts them, and trains all the same.
    """
    names = given_names(feature)
    return names if names is not None and len(names) == math.prod(feature["shape"]) else None


def joint_names(feature: Mapping[str, Any], dimension: int) -> list[str]:
    """Names of a feature's dimensions for tables and charts, without LeRobot's `.pos`.

    Args:
        feature: as info.json describes it.
        dimension: how many there are; where the dataset gives another number of names they are `joint_<i>`.
    """
    names = given_names(feature)
    if names is None or len(names) != dimension:
        return [f"joint_{index}" for index in range(dimension)]
    short = [name.removesuffix(".pos") for name in names]
    return short if not _doubles(short) else [f"joint_{index}" for index in range(dimension)]


def name_axes(features: Mapping[str, dict[str, Any]]) -> None:
    """Name the axes of cameras whose names are null, missing or odd, as a converter leaves them: LeRobot indexes them.

    Only in memory: which of the axes holds the channels is seen by its length.
    """
    for feature in features.values():
        names = feature.get("names")
        whole = isinstance(names, list | tuple) and len(names) == len(feature["shape"])
        if feature["dtype"] in PICTURES and not whole:
            first, *_, last = feature["shape"]
            feature["names"] = list(CAMERA_AXES[first in CHANNELS and last not in CHANNELS])


def _leaves(names: Any, group: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The path of groups to each name, the name last; an empty one for a null among names."""
    if isinstance(names, Mapping):
        for key, inner in names.items():
            if inner is not None:
                yield from _leaves(inner, (*group, str(key)))
    elif isinstance(names, list | tuple):
        for inner in names:
            yield from _leaves(inner, group)
    else:
        yield () if names is None else (*group, str(names))


def _are_places(names: Mapping[str, Any]) -> bool:
    """Whether names are given as `{"x": 0, "y": 1}`."""
    places = list(names.values())
    whole = all(isinstance(place, int) and not isinstance(place, bool) for place in places)
    return whole and sorted(places) == list(range(len(places))) != []


def _doubles(names: list[str]) -> set[str]:
    return {name for name, count in Counter(names).items() if count > 1 and name}
