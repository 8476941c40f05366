"""What of a dataset is held against the others: few figures, to be remembered when nobody reads the rows."""

import hashlib

import numpy as np
from lerobot.utils.constants import ACTION, OBS_STATE

from zk0.data.names import given_names
from zk0.data.subject import Subject
from zk0.preflight.records import Traits


def traits_of(subject: Subject) -> Traits:
    """The traits of a dataset whose rows can be read."""
    ranges = {}
    digest = hashlib.sha256()
    for key in (OBS_STATE, ACTION):
        values = subject.vectors(key)
        if values is None or not len(values):
            continue
        digest.update(np.ascontiguousarray(values, dtype="<f8").tobytes())
        if np.isfinite(values).all():
            ranges[key] = (values.min(axis=0).tolist(), values.max(axis=0).tolist())
    meta = subject.meta
    return Traits(
        fps=float(meta.fps),
        robot_type=meta.robot_type,
        cameras=list(meta.camera_keys),
        joints=given_names(meta.features.get(ACTION, {})),
        ranges=ranges,
        rows_sha256=digest.hexdigest(),
    )
