"""Checks of what the rows hold: dimensions, values, names, jumps."""

import numpy as np
from lerobot.utils.constants import ACTION, OBS_STATE

from zk0.data.faults import RECORD_AGAIN
from zk0.data.findings import DataFinding
from zk0.data.names import fitting_names, given_names
from zk0.data.subject import Subject

CONSTANT_RANGE = 1e-3
"""Joint units: a joint that moves less is constant. One step of an SO-101's encoder is more, even in rad (1.5e-3)."""
JUMP_RANGE = 0.5
"""Of the joint's whole range, in one frame: no arm goes from end to end in two frames; encoders that wrap do."""
JUMP_FACTOR = 10.0
"""Times the joint's usual step (the median while it moves): keeps the noise of a still joint out."""
JUMP_SHARE = 0.01
"""Of the frames: more jumps of the measured state than this are no glitches, but a wrong calibration or unit."""


def check_lengths(subject: Subject) -> DataFinding:
    """There is an action; and where state and action have other than as many names as numbers, nobody reads these."""
    if ACTION not in subject.meta.features:
        return subject.error("dimensions", f"has no {ACTION!r} feature: it cannot teach a policy", RECORD_AGAIN)
    sizes, misnamed = [], []
    for key in (OBS_STATE, ACTION):
        if key not in subject.meta.features:
            continue
        values, names = subject.vectors(key), given_names(subject.meta.features[key])
        if values is None:
            seen = f"{key!r} holds no numbers (dtype {subject.meta.features[key]['dtype']!r})"
            return subject.error("dimensions", seen, RECORD_AGAIN)
        size = values.shape[1]
        if names is not None and len(names) != size:
            misnamed.append((key, f"{key!r} has {size} numbers in a row, and info.json names {len(names)}"))
        sizes.append(f"{key} {size}")
    if misnamed:
        keys = " and ".join(f"features.{key}.names" for key, _ in misnamed)
        seen = f"{'; '.join(seen for _, seen in misnamed)}: they are called joint_0, joint_1, ..."
        return subject.warning("dimensions", seen, f"correct {keys} in meta/info.json, or make it null")
    return subject.ok("dimensions", ", ".join(sizes))


def check_values(subject: Subject) -> DataFinding:
    """Every number that a policy may see or give is one."""
    for key in subject.learned():
        values = subject.vectors(key)
        if values is not None and (wrong := np.flatnonzero(~np.isfinite(values).all(axis=1))).size:
            seen = f"{key!r} holds NaN or infinity in {wrong.size} rows, first in {subject.row(wrong[0])}"
            return subject.error("values", seen, "remove those episodes (`lerobot-edit-dataset`), or record them again")
    return subject.ok("values", "all finite")


def check_joint_names(subject: Subject) -> DataFinding:
    """The joints have the first client's names, in its order: averaged policies would mix joints up otherwise."""
    names = fitting_names(subject.meta.features[ACTION]) if ACTION in subject.meta.features else None
    first = subject.first_names
    if names is None:
        remedy = f"name the joints in meta/info.json (features.{ACTION}.names)"
        return subject.warning("joint names", "the joints have no names: their order cannot be compared", remedy)
    if first is None or names == first:
        return subject.ok("joint names", ", ".join(names))
    if sorted(names) == sorted(first):
        seen = f"the order is {', '.join(names)}; the first client's is {', '.join(first)}"
        return subject.error("joint names", seen, "convert the dataset to the first client's order")
    seen = f"{', '.join(names)}; the first client has {', '.join(first)}"
    return subject.warning("joint names", seen, "see that the joints are the same ones, in the same order")


def check_constant(subject: Subject) -> DataFinding:
    """Joints move: one that never does may be unused; where none does, the arm was not recorded."""
    still: list[str] = []
    for key in (OBS_STATE, ACTION):
        values = subject.vectors(key)
        if values is None:
            continue
        constant = np.ptp(values, axis=0) < CONSTANT_RANGE
        if constant.all():
            seen = f"no dimension of {key!r} moves by {CONSTANT_RANGE} or more"
            return subject.error("constant joints", seen, "see that the arm was connected, and record again")
        names = _labels(subject, key, len(constant))
        still += [f"{name} ({key})" for name, is_constant in zip(names, constant, strict=True) if is_constant]
    if still:
        remedy = "fine for an unused joint; if not, see its cable and calibration, and record again"
        return subject.warning("constant joints", f"never move: {', '.join(still)}", remedy)
    return subject.ok("constant joints", "all move")


def check_jumps(subject: Subject) -> DataFinding:
    """No joint jumps: encoders that wrap, wrong units, lost samples. Commands may step; measured states may not."""
    counts = {OBS_STATE: 0, ACTION: 0}
    first = ""
    for key in tuple(counts):
        values = subject.vectors(key)
        if values is None or len(values) < 2:
            continue
        steps = np.abs(np.diff(values, axis=0)) * subject.same_episode()[:, None]
        usual = np.array([np.median(joint[joint > 0]) if (joint > 0).any() else 0.0 for joint in steps.T])
        jumps = (steps > JUMP_RANGE * np.ptp(values, axis=0)) & (steps > JUMP_FACTOR * usual) & (steps > 0)
        counts[key] = int(jumps.any(axis=1).sum())
        if counts[key] and not first:
            row, joint = (int(i) for i in np.argwhere(jumps)[0])
            name, step = _labels(subject, key, len(usual))[joint], steps[row, joint]
            first = f"first {name} ({key}) by {step:.4g} in {subject.row(row + 1)}"
    if not any(counts.values()):
        return subject.ok("jumps", "none")
    seen = f"{counts[OBS_STATE]} of the state and {counts[ACTION]} of the action, {first}"
    if counts[OBS_STATE] > JUMP_SHARE * len(subject.rows):
        return subject.error("jumps", seen, "calibrate the arm away from its encoders' ends, and record again")
    return subject.warning("jumps", seen, "look at these frames (`lerobot-dataset-viz`); remove the episodes if wrong")


def _labels(subject: Subject, feature: str, size: int) -> list[str]:
    """The joints' names, or their numbers where there are not as many names."""
    return fitting_names(subject.meta.features[feature]) or [str(number) for number in range(size)]
