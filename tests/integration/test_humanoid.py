"""An older recording of another robot, from its folder to a finished run, by the commands that the documents name."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tomli_w
from lerobot.utils.constants import IMAGENET_STATS

from benchmarks.service import CommandLine
from tests.recordings import (
    ACTION,
    FRONT,
    STATE,
    WRIST,
    as_old,
    edit_info,
    edit_table,
    first_episodes,
    shipped,
    with_column,
)
from tests.refusals import accepted, checked, tree
from zk0.config import DatasetConfig
from zk0.data.datasets import open_metadata
from zk0.data.statistics import training_statistics

pytestmark = pytest.mark.slow
ARM = ("ShoulderPitch", "ShoulderRoll", "ShoulderYaw", "Elbow", "WristRoll", "WristPitch", "WristYaw")
HAND = ("Pinky", "Ring", "Middle", "Index", "ThumbBend", "ThumbRotation")
JOINTS = [f"k{side}{joint}" for side in ("Left", "Right") for joint in (*ARM, *(f"Hand{finger}" for finger in HAND))]
"""As Unitree's converter names those of a G1 with Inspire hands."""
ACT = {
    "type": "act",
    "device": "cpu",
    "overrides": {
        "dim_model": 32,
        "n_heads": 2,
        "dim_feedforward": 32,
        "n_encoder_layers": 1,
        "n_vae_encoder_layers": 1,
        "chunk_size": 8,
        "n_action_steps": 8,
        "latent_dim": 8,
        "pretrained_backbone_weights": "null",
    },
}


def humanoid(folder: Path) -> Path:
    """A v2.1 recording of 26 joints in radians, nested names, one camera without names, no statistics of episodes."""
    old = as_old(first_episodes(shipped(folder / "source"), 4), folder / "g1")
    for file in sorted((old / "data").rglob("*.parquet")):
        edit_table(file, of_26_joints)
    (old / "meta" / "episodes_stats.jsonl").unlink()
    edit_info(old, as_unitree_says)
    return old


def of_26_joints(rows: pa.Table) -> pa.Table:
    for key in (STATE, ACTION):
        values = [np.radians(np.resize(row, len(JOINTS))).tolist() for row in rows[key].to_pylist()]
        rows = with_column(rows, key, values, pa.list_(pa.float32()))
    return rows


def as_unitree_says(info: dict[str, Any]) -> None:
    info["features"] |= {key: {"dtype": "float32", "shape": [26], "names": [JOINTS]} for key in (STATE, ACTION)}
    del info["features"][WRIST]
    info["features"][FRONT]["names"] = None
    info["robot_type"] = "Unitree_G1"


def test_an_older_recording_in_radians_goes_all_the_way(zk0: CommandLine, tmp_path: Path) -> None:
    """`check-data`, as its message says `check-data --fix-to`, and `run` with the copy: all tables say rad."""
    old, new = humanoid(tmp_path), tmp_path / "new" / "g1"
    config: dict[str, Any] = {
        "outputs_dir": str(zk0.outputs),
        "federation": {"num_rounds": 1, "min_train_clients": 1},
        "clients": [{"name": "g1", "repo_id": "me/g1", "root": str(old)}],
        "policy": ACT,
        "peft": {"enabled": False},
        "training": {"steps": 2, "batch_size": 4},
        "evaluation": {"frame_stride": 8, "holdout_episodes": 1},
        "memory": {"probe": False},
    }
    file = tmp_path / "g1.toml"
    file.write_text(tomli_w.dumps(config))
    before = tree(old)
    assert "`zk0 check-data CONFIG --fix-to FOLDER` writes a converted copy" in checked(file)
    said = accepted(file, (), f"--fix-to={new.parent}")
    assert re.search(r"g1 +│ dimensions +│ ok +│ observation.state 26, action 26 ", said)
    assert f"{JOINTS[0]}, {JOINTS[1]}, " in said
    assert tree(old) == before
    found = training_statistics(open_metadata(DatasetConfig(name="g1", repo_id="me/g1", root=str(new))), 1)
    np.testing.assert_allclose(found[FRONT]["mean"].ravel(), np.ravel(IMAGENET_STATS["mean"]))
    file.write_text(tomli_w.dumps({**config, "clients": [{**config["clients"][0], "root": str(new)}]}))
    closing = zk0.run("run", file, "--name", "g1")
    assert "error, rad" in closing
    figures = zk0.metrics("g1")[-1]
    assert 0 < figures["evaluate"]["g1"]["action_error_rad"] < np.pi
    assert set(figures["evaluate"]["g1"]["joint_error"]) == set(JOINTS)
    log = (zk0.outputs / "g1" / "run.log").read_text()
    assert re.search(r"round 1 of 1 committed, action error 0\.\d{3} rad", log)
    for text in (closing, log, json.dumps(zk0.metrics("g1"))):
        assert not re.search(r"\bdeg\b|_deg\b|degrees|°", text)
