"""Datasets beside one another, through both commands: warnings with figures, and errors where --strict is given."""

from pathlib import Path

import numpy as np
import pytest

import zk0
from tests.recordings import shipped
from tests.refusals import accepted, checked, tree
from tests.robots import robot, run_of
from zk0.data.subject import open_subject
from zk0.errors import DatasetError
from zk0.preflight.between import compare
from zk0.preflight.traits import traits_of

pytestmark = pytest.mark.slow


def test_what_is_only_warned_of_is_refused_where_strict_is_given(tmp_path: Path) -> None:
    """Radians beside degrees, a client's recordings as those that no client has: nothing of it is written."""
    radians = robot(tmp_path / "radians", np.radians, source="unseen")
    rooms = {"one": shipped(tmp_path / "one"), "odd": radians}
    config = run_of(tmp_path / "outputs", rooms, {"unseen": shipped(tmp_path / "copy")})
    words = ["radians beside degrees?", "12 of 12 episodes are recordings of client 'one', too"]
    before = tree(tmp_path)
    said = [accepted(config), checked(config, (), "--strict")]
    with pytest.raises(DatasetError, match="--strict: 2 warnings are errors") as error:
        zk0.run(config, name="refused", strict=True)
    for text in (*said, str(error.value)):
        assert all(word in text for word in words), text
    assert "--strict: 2 warnings in the table (odd, unseen) are errors" in said[1]
    assert {name: value for name, value in tree(tmp_path).items() if name != "refused.toml"} == before


def test_the_shipped_rooms_are_fine_beside_one_another() -> None:
    """The default run is warned of nothing."""
    config = zk0.load_config()
    datasets = [*config.clients, *config.evaluation.datasets]
    traits = {item.name: traits_of(open_subject(config, item)[0]) for item in datasets}
    assert [item.verdict for item in compare(config, traits)] == ["ok"] * 5
