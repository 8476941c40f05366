"""The joints' charts of a round."""

import numpy as np
from PIL import Image

from tests.unit.report.test_markdown import line
from zk0.files import atomic
from zk0.report.joints import draw_joint_charts
from zk0.runs.store import RunStore


def test_the_joints_of_round_0_are_drawn_beside_the_newest(store: RunStore) -> None:
    names = ["shoulder", "elbow", "gripper"]
    rounds = [line(0, 8.0), line(1, 6.0)]
    for entry in rounds:
        entry["evaluate"]["kitchen"]["joints"] = names
    recorded = np.outer(np.linspace(0, 1, 30), np.ones(3)).astype(np.float32)
    sizes = []
    for number in (0, 1):
        path = store.round_folder(number) / "clients" / "kitchen" / "evaluate.safetensors"
        atomic.write_tensors(path, {"recorded": recorded, "predicted": recorded + 1 - number / 2})
        written = draw_joint_charts(store.folder, rounds[: number + 1], ["kitchen", "workshop"])
        assert set(written) == {"joints-kitchen"}
        with Image.open(written["joints-kitchen"]) as picture:
            colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20)}
            sizes.append(picture.size)
        assert ((0, 114, 178) in colours) == bool(number), "the newest round's line"
        assert {(213, 94, 0), (34, 34, 34)} <= colours, "round 0 and the recording"
    assert sizes[0] == sizes[1]
    assert draw_joint_charts(store.folder, [*rounds, line(2, 5.0)], ["kitchen"]) == {}, "a quick round has none"
    assert draw_joint_charts(store.folder, [], ["kitchen"]) == {}
