"""The units that joints and their errors are in. The key of an error says its own: `action_error_rad`."""

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from zk0.metrics.values import Json, mapping, number

ACTION_ERROR = "action_error"
GRIPPER_ERROR = "gripper_error"
OPENING = "0-100"
"""Of a gripper: from closed to open."""
KEY_ENDS: dict[str | None, str] = {
    "deg": "_deg",
    "rad": "_rad",
    "m": "_m",
    "%": "_percent",
    OPENING: "_percent",
    None: "",
}
WORDS: dict[str | None, str] = {"deg": "degrees", "rad": "radians", "m": "metres", "%": "percent", OPENING: OPENING}
_STEMS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll")
"""The joints of LeRobot's own arms: SO-100, SO-101, Koch."""
_FAMILY = re.compile(r"(^|[_ -])(so[_-]?10[01]|so_follower|koch|lekiwi)", re.IGNORECASE)
"""Robot types that LeRobot records in degrees, and their grippers as 0-100."""
_UNITREE = re.compile(r"^k(Left|Right|)(Shoulder|Elbow|Wrist|Waist|Hip|Knee|Ankle)")
"""Joints of Unitree's humanoids, which its converter records in radians."""
_SAID = re.compile(r"(?:[._ ](deg|degrees|rad|radians|percent)|[\[(](deg|degrees|rad|radians|percent|m|%)[\])])$")
"""A unit at the end of a joint's name: `elbow_rad`, `rail [m]`."""
_SPELT: dict[str, str] = {"degrees": "deg", "radians": "rad", "percent": "%"}
_NO_POSITION = (".vel", ".torque", ".effort", ".current")


class Joints(NamedTuple):
    """The joints of an action: what each is measured in, and which of them are grippers."""

    names: list[str]
    units: list[str | None]
    grippers: list[int]
    """Their places; all others are of the arm."""

    @property
    def arm(self) -> list[int]:
        """The places of the joints that are no grippers."""
        return [index for index in range(len(self.names)) if index not in self.grippers]

    @property
    def arm_unit(self) -> str | None:
        """That of the arm's joints, as far as it is known; None where they differ."""
        return shared(self.units[index] for index in self.arm if self.units[index])

    def record(self) -> dict[str, object]:
        """Plain data, by error, for an evaluation's figures."""
        return {
            ACTION_ERROR: self.arm_unit,
            GRIPPER_ERROR: shared(self.units[index] for index in self.grippers),
            "joint_error": dict(zip(self.names, self.units, strict=True)),
        }


def joints(
    names: Sequence[str],
    robot_type: str | None,
    unit: str | Mapping[str, str] | None,
    grippers: Sequence[str],
) -> Joints:
    """What the joints of an action are measured in.

    Args:
        names: of the joints, in order.
        robot_type: as the dataset gives it.
        unit: the config's `data.unit`: of all joints but the grippers, or of joints by name or pattern.
        grippers: the config's `data.grippers`: names or patterns.
    """
    places = [index for index, name in enumerate(names) if any(is_named(name, pattern) for pattern in grippers)]
    positions = [_stem(name) for i, name in enumerate(names) if i not in places and not name.endswith(_NO_POSITION)]
    family = bool(_FAMILY.search(robot_type or "")) or (bool(positions) and set(positions) <= set(_STEMS))
    units: list[str | None] = []
    for index, name in enumerate(names):
        known = _guess(name, family=family, gripper=index in places)
        if isinstance(unit, Mapping):
            known = next((value for pattern, value in unit.items() if is_named(name, pattern)), known)
        elif unit is not None and index not in places:
            known = unit
        units.append(known)
    return Joints(list(names), units, places)


def is_named(name: str, pattern: str) -> bool:
    """Whether a joint is meant by a name or pattern, such as `*gripper*`.

    Letters large and small are the same, and LeRobot's `.pos` may be there or not.
    """
    return fnmatchcase(name.lower().removesuffix(".pos"), pattern.lower().removesuffix(".pos"))


def _guess(name: str, *, family: bool, gripper: bool) -> str | None:
    if said := _SAID.search(name.removesuffix(".pos")):
        word = said[1] or said[2]
        return _SPELT.get(word, word)
    if _UNITREE.match(name):
        return "rad"
    if not family or name.endswith(_NO_POSITION):
        return None
    return OPENING if gripper else "deg"


def _stem(name: str) -> str:
    """`left_main_shoulder_pan.pos` is a `shoulder_pan`."""
    known = name.lower().removesuffix(".pos")
    return next((stem for stem in _STEMS if known == stem or known.endswith((f"_{stem}", f".{stem}"))), known)


def key_of(name: str, unit: str | None) -> str:
    """The key of an error in a unit: `action_error_rad`."""
    return name + KEY_ENDS.get(unit, "") if name.endswith(ACTION_ERROR) else name


def keys_of(name: str) -> list[str]:
    """Every key that an error can have."""
    return [name + end for end in dict.fromkeys(KEY_ENDS.values())] if name.endswith(ACTION_ERROR) else [name]


def key_in(figures: Json, name: str) -> str:
    """The key under which figures have an error, whatever its unit; the plain name where they have none."""
    return next((key for key in keys_of(name) if key in figures), name)


def get(figures: object, name: str) -> object:
    """What figures have for an error, whatever its unit: the error itself, its interval or its change."""
    known = mapping(figures)
    return known.get(key_in(known, name))


def value(figures: object, name: str) -> float | None:
    """An error, whatever its unit; or any other figure."""
    return number(get(figures, name))


def unit_of(figures: object, name: str) -> str | None:
    """The unit of an error: its key says it, and `units` that of a gripper's."""
    known = mapping(figures)
    if name == GRIPPER_ERROR:
        said = mapping(known["units"]).get(GRIPPER_ERROR) if "units" in known else OPENING  # of a run from before
        return str(said) if said else None
    end = key_in(known, name).removeprefix(name)
    return next((unit for unit, tail in KEY_ENDS.items() if tail == end), None)


def joint_units(figures: object) -> dict[str, str | None]:
    """Joint -> its unit; of a run from before units were known, in degrees."""
    known = mapping(figures)
    listed = known.get("joints")
    names = [str(name) for name in listed] if isinstance(listed, list) else []
    if "units" not in known:
        return {name: OPENING if "gripper" in name.lower() else "deg" for name in names}
    said = mapping(mapping(known["units"]).get("joint_error"))
    return {name: str(said[name]) if said.get(name) else None for name in names}


def headed(title: str, unit: str | None) -> str:
    """A heading with the unit of what is under it, where there is one: `action error, rad`."""
    return f"{title}, {unit}" if unit else title


def keyed(record: Json, unit: str | None) -> dict[str, object]:
    """A record whose key of the action error says its unit, as those of an evaluation do."""
    return {key_of(name, unit) if name == ACTION_ERROR else name: item for name, item in record.items()}


def shared(units: Iterable[str | None]) -> str | None:
    """The unit that all are in; None where they differ."""
    found = set(units)
    return found.pop() if len(found) == 1 else None


def comparable(units: Iterable[str | None]) -> bool:
    """Whether a mean over values in these units means anything: no two of them are known to differ."""
    return len({unit for unit in units if unit is not None}) <= 1


def over(evaluations: Sequence[Json], name: str, otherwise: str | None = None) -> tuple[str, bool]:
    """The key of an error's mean over evaluations, and whether there is one.

    Args:
        evaluations: each dataset's figures; those without the error do not count.
        name: of the error.
        otherwise: the unit where none has it.
    """
    units = [unit_of(item, name) for item in evaluations if get(item, name) is not None]
    return key_of(name, shared(units) if units else otherwise), comparable(units)


def mean(evaluations: Sequence[Json], name: str) -> float | None:
    """The mean of a figure over evaluations; of those without it none is made, nor of different units."""
    known = [found for item in evaluations if (found := value(item, name)) is not None]
    return sum(known) / len(known) if known and over(evaluations, name)[1] else None
