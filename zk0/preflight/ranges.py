"""What the joints of two recordings say of each other: other units, another calibration. Statistics alone, no data."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zk0.preflight.records import Ranges

Array = NDArray[np.float64]

SCALE = 25.0
"""Times: so much larger are values and ranges of most joints in other units, or of a gripper (0-1 beside 0-100). The
ranges of a robot that moves less may be so much smaller, but not its values: a pose stays tens of degrees from zero."""
TICK_SCALE = 8.0
"""The same where the larger ones are beyond all angles: an encoder's 4096 steps beside 360 degrees."""
ANY_ANGLE = 400.0
"""Degrees, beyond which no joint turns."""
RADIAN = 180 / np.pi
"""Degrees."""
LIKE_RADIANS = 2 * np.pi
"""Where no joint goes beyond this, angles are taken for radians."""
TURNS = (90.0, 180.0)
"""Degrees by which calibrations of LeRobot's earlier versions differ from today's."""
TURN_TOLERANCE = 15.0
"""Degrees: so far both ends of a joint's range may be from the turn. In the shipped rooms ends differ by up to 80, but
never both by the same."""
FREE = ("pan", "roll", "yaw", "waist", "base", "rotat", "turn")
"""In names of joints that turn by right, to the side where the work is: one alone says nothing."""
END = 100.0
"""Of a joint's range, where LeRobot normalises it: `use_degrees = false`."""
NEAR_END, BEYOND_END = 3.0, 1.0
"""So near to it is at the end; so far beyond it is no normalised joint."""
SATURATED_SHARE = 0.01
"""Of the rows just at the end: a normalised joint is clipped there."""
STILL = 1e-3
"""A joint that moves less says nothing."""


class Fault(NamedTuple):
    """Two recordings that can hardly be of the same unit and calibration."""

    what: str
    """What it looks like."""
    joints: list[int]
    """The places that show it."""


def ranges_of(values: Array) -> Ranges:
    """Ranges of values of shape (rows, joints)."""
    low, high = np.quantile(values, (0.05, 0.95), axis=0)
    at_end = (np.abs(values) == END).mean(axis=0)
    columns = (low, high, values.min(axis=0), values.max(axis=0), at_end)
    return Ranges(**dict(zip(Ranges.model_fields, (column.tolist() for column in columns), strict=True)))


class _Of:
    """Ranges as arrays of shape (joints,).

    Args:
        ranges: the ranges.
    """

    def __init__(self, ranges: Ranges) -> None:
        self.low, self.high = np.array(ranges.low), np.array(ranges.high)
        self.least, self.most = np.array(ranges.least), np.array(ranges.most)
        self.at_end = np.array(ranges.at_end)
        self.spread = self.high - self.low
        self.size = np.maximum(np.abs(self.low), np.abs(self.high))
        """How far from zero."""


def fault_between(
    here: Ranges, there: Ranges, arm: Sequence[int], grippers: Sequence[int], names: Sequence[str]
) -> Fault | None:
    """What is wrong between two recordings of the same joints, if anything is.

    Args:
        here: the one.
        there: the other, which the words begin from.
        arm: places of the joints that are no grippers.
        grippers: places of those that are.
        names: of all joints.
    """
    mine, others = _Of(here), _Of(there)
    return (
        _other_unit(mine, others, arm)
        or _normalised(mine, others, arm)
        or _turned(mine, others, arm, names)
        or _other_gripper(mine, others, grippers)
    )


def _scale(here: _Of, there: _Of, places: Sequence[int]) -> tuple[float, list[int]]:
    """How many times larger the joints are here: values and ranges, whichever says less; the median over joints.

    Returns:
        The factor, below 1 where they are smaller, and the joints that have at least half of it; 1 and none where too
        few joints move.
    """
    moving = [place for place in places if min(here.spread[place], there.spread[place]) > STILL]
    if not moving or len(moving) < min(2, len(places)):
        return 1.0, []
    sizes = np.log(here.size[moving] / there.size[moving])
    spreads = np.log(here.spread[moving] / there.spread[moving])
    both = np.where(sizes * spreads > 0, np.sign(sizes) * np.minimum(np.abs(sizes), np.abs(spreads)), 0.0)
    middle = float(np.median(both))
    shown = [place for place, value in zip(moving, both, strict=True) if value * middle >= middle * middle / 2]
    return float(np.exp(middle)), shown


def _other_unit(here: _Of, there: _Of, arm: Sequence[int]) -> Fault | None:
    factor, joints = _scale(here, there, arm)
    times = max(factor, 1 / factor)
    beyond = bool(joints) and max(here.size[joints].max(), there.size[joints].max()) > ANY_ANGLE
    if times < (TICK_SCALE if beyond else SCALE):
        return None
    if RADIAN / 2 < times < RADIAN * 2:
        return Fault("degrees beside radians" if factor > 1 else "radians beside degrees", joints)
    return Fault(f"another unit: {'1/' if factor < 1 else ''}{times:.3g} of it", joints)


def _other_gripper(here: _Of, there: _Of, grippers: Sequence[int]) -> Fault | None:
    factor, joints = _scale(here, there, grippers)
    times = max(factor, 1 / factor)
    if times < SCALE:
        return None
    return Fault(f"another unit of the gripper: {'1/' if factor < 1 else ''}{times:.3g} of it", joints)


def _normalised(here: _Of, there: _Of, arm: Sequence[int]) -> Fault | None:
    mine, others = _ends(here, there, arm), _ends(there, here, arm)
    if mine and not others:
        return Fault("-100 to 100 of each joint's range beside degrees", mine)
    if others and not mine:
        return Fault("degrees beside -100 to 100 of each joint's range", others)
    return None


def _ends(here: _Of, there: _Of, arm: Sequence[int]) -> list[int]:
    """The joints that come to the ends of a normalised range, where the recording looks like one."""
    places = list(arm)
    if not places or max(-here.least[places].min(), here.most[places].max()) > END + BEYOND_END:
        return []
    reach = np.maximum(-here.least, here.most) >= END - NEAR_END
    ends = [place for place in places if reach[place]]
    if len(ends) > len(places) / 2:
        return ends
    beyond = max(-there.least[places].min(), there.most[places].max()) > END + BEYOND_END
    return [place for place in places if beyond and here.at_end[place] >= SATURATED_SHARE]


def _turned(here: _Of, there: _Of, arm: Sequence[int], names: Sequence[str]) -> Fault | None:
    """Both ends of a joint's range are off by a quarter or half turn, of several joints or of one that is not free."""
    places = list(arm)
    if not places:
        return None
    radians = max(here.size[places].max(), there.size[places].max()) <= LIKE_RADIANS
    unit = 1 / RADIAN if radians else 1.0
    for turn in TURNS:
        low, high = (here.low - there.low) / unit, (here.high - there.high) / unit
        near = (np.abs(np.abs(low) - turn) <= TURN_TOLERANCE) & (np.abs(np.abs(high) - turn) <= TURN_TOLERANCE)
        joints = [place for place in places if near[place] and low[place] * high[place] > 0]
        if len(joints) > 1 or any(not _is_free(names[place]) for place in joints):
            return Fault(f"a calibration off by {turn:.0f} degrees", joints)
    return None


def _is_free(name: str) -> bool:
    """Whether a joint may turn by right; one whose name says nothing may."""
    known = name.lower()
    return any(word in known for word in FREE) or not any(word in known for word in ("lift", "flex", "elbow", "pitch"))
