"""What of a dataset is held against the others: few figures, to be remembered when nobody reads the rows."""

import numpy as np
from lerobot.utils.constants import ACTION, OBS_STATE

from zk0.data.names import joint_names
from zk0.data.subject import Subject
from zk0.preflight.ranges import ranges_of
from zk0.preflight.recordings import rows_of
from zk0.preflight.records import Ranges, Traits


def traits_of(subject: Subject) -> Traits:
    """The traits of a dataset; without its rows where these are not here."""
    meta, ranges, vectors = subject.meta, dict[str, Ranges](), []
    for key in (OBS_STATE, ACTION):
        values = subject.vectors(key) if len(subject.rows) else None
        if values is None:
            continue
        vectors.append(values)
        finite = values[np.isfinite(values).all(axis=1)]
        if len(finite):
            ranges[key] = ranges_of(finite)
    described = {key: meta.features[key] for key in (OBS_STATE, ACTION) if key in meta.features}
    return Traits(
        fps=float(meta.fps),
        robot_type=meta.robot_type,
        cameras={key: [int(side) for side in meta.features[key]["shape"]] for key in meta.camera_keys},
        joints={key: joint_names(feature, int(feature["shape"][0])) for key, feature in described.items()},
        ranges=ranges,
        rows=rows_of(vectors, subject.column("episode_index")) if vectors else None,
    )
